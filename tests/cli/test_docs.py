"""Reference parts of a document are written from the code, and a stale one is found."""

from __future__ import annotations

from pathlib import Path

from agentkd.cli.docs import PARTS

from .conftest import Cli


def test_every_part_is_written_once_and_then_up_to_date(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n" + "".join(f"<!-- {n} -->\nstale text\n<!-- /{n} -->\n\ntail-mark\n" for n in PARTS)
    )
    assert cli("docs", page, "--check").code == 1
    assert "stale text" in page.read_text()
    assert cli("docs", page, "--json").json == {"parts": list(PARTS), "state": "written"}
    text = page.read_text()
    assert "stale text" not in text
    assert text.count("tail-mark") == len(PARTS)
    assert (
        "| `agentkd checkpoints rollback` | Let the previous checkpoint, or the base, serve again. |" in text
    )
    assert "| `memory.k` | `4` | Memories rendered into a prompt. |" in text
    assert "| `after_promote(checkpoint, previous)` |" in text
    assert "| 9 | `CheckpointError` |" in text
    assert "| suite | `jsonl` |" in text
    again = cli("docs", page, "--check")
    assert (again.code, again.out.strip().endswith("up to date")) == (0, True)
    assert page.read_text() == text


def test_a_page_without_a_marked_part_is_refused(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    done = cli("docs", page)
    assert done.code == 3
    assert "<!-- commands -->" in done.err
    assert page.read_text() == "nothing"
