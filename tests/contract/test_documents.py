"""What is printed runs: README blocks, examples and skills.

A block fenced as ``python`` is executed, together with those of its section (a heading of level 1 or 2), in a
process of its own with an empty folder around it; examples are, in a new Python as a reader has it. Each
``agentkd`` line of a ``console`` block must parse.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agentkd.cli.invocation import Invocation
from agentkd.cli.root import root
from agentkd.train import trainer

from .conftest import ROOT

README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SKILLS = sorted((ROOT / "skills").glob("*/SKILL.md"))
TEXT = README.read_text(encoding="utf-8") if README.is_file() else ""
TIMEOUT_SECONDS = 240

_BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading of level 1 or 2."""
    found: dict[str, str] = {}
    heading, in_block = "top", False
    for line in text.splitlines(keepends=True):
        in_block ^= line.startswith("```")
        if not in_block and re.match(r"#{1,2} ", line):
            heading = line.strip("# \n")
        found[heading] = found.get(heading, "") + line
    return found


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in _BLOCK.findall(text) if name == language]


PYTHON = {name: "\n".join(code) for name, text in sections(TEXT).items() if (code := blocks(text, "python"))}
COMMANDS = [
    line.removeprefix("$ ").strip()
    for code in blocks(TEXT, "console")
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith("$ ") and "agentkd" in line
]


def run_script(path: Path, folder: Path) -> None:
    """Run a script in a folder, in a seat where there is one: most of its time would go into imports."""
    process = trainer.subprocess.Popen(
        [sys.executable, str(path)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**trainer.LoraTrainer()._environment(), "AGENTKD_README": "1"},
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()  # where it has not ended by itself
    assert process.returncode == 0, f"{out[-1500:]}\n{err[-3000:]}"


def test_sections_and_blocks_are_found() -> None:
    text = (
        "# A\n```python\n# not a heading\nx = 1\n```\ntext\n## B\n"
        "```python\ny = 2\n```\n```console\n$ agentkd run\n```\n"
    )
    found = sections(text)
    assert list(found) == ["A", "B"]
    assert blocks(found["A"], "python") == ["# not a heading\nx = 1\n"]
    assert blocks(found["B"], "python") == ["y = 2\n"]
    assert blocks(found["B"], "console") == ["$ agentkd run\n"]


@pytest.mark.skipif(not README.is_file(), reason="README.md is not written yet")
def test_the_readme_shows_code_and_commands() -> None:
    assert PYTHON
    assert COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize("section", PYTHON)
def test_the_python_of_a_readme_section_runs(section: str, tmp_path: Path) -> None:
    script = tmp_path / "section.py"
    script.write_text(PYTHON[section], encoding="utf-8")
    run_script(script, tmp_path)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_parses(line: str) -> None:
    for part in re.split(r"&&|\|", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words[:1] == ["agentkd"]:
            parse(root, words[1:])


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Parse a command line without running it; raises click.UsageError."""
    if set(words) & {"--help", "--version", "-V", "-h"}:
        return
    with command.make_context(command.name, words, parent=parent, obj=Invocation()) as context:
        if isinstance(command, click.Group):
            _, child, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert child is not None
            parse(child, rest, context)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path: Path, tmp_path: Path, new_python: None) -> None:
    run_script(path, tmp_path)


@pytest.mark.parametrize("path", SKILLS, ids=lambda path: path.parent.name)
def test_a_skill_is_valid(path: Path) -> None:
    from skills_ref import validate

    assert validate(path.parent) == []


def test_the_summaries_of_the_help_are_those_of_the_commands() -> None:
    from agentkd.cli.root import COMMANDS as LAZY

    context = click.Context(root, obj=Invocation())
    for name, lazy in LAZY.items():
        command = root.get_command(context, name)
        assert command is not None
        first = (command.help or "").strip().splitlines()[0]
        assert first == lazy.summary, f"`agentkd {name}` says {first!r}, the table says {lazy.summary!r}"


@pytest.mark.skipif("<!-- /" not in TEXT, reason="README.md has no reference part")
def test_the_reference_parts_of_the_readme_are_up_to_date() -> None:
    from agentkd.cli.docs import filled

    assert filled(TEXT, Invocation()) == TEXT, "run `make docs`"
