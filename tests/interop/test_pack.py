"""A pack that was tampered with, or that would do harm, is refused as a whole."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkd.errors import DataError
from agentkd.interop import Evidences, dump_pack, read_evidence, read_pack
from agentkd.interop.pack import Manifest
from agentkd.schema import Memory
from agentkd.testing import example_trajectory

MEMORY = Memory(id="mem-1", kind="pitfall", when_to_use="a cart is empty", content="say so")


def packed(
    entries: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda entry: None
) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            change(entry)
            archive.writestr(entry, content)
    return data.getvalue()


def entries(lines: bytes, n: int = 1, **changes: object) -> dict[str, bytes]:
    """Return the entries of a pack whose manifest fits its lines."""
    digest = hashlib.sha256(lines).hexdigest()
    manifest = Manifest(n=n, sha256={"memories.jsonl": digest}).model_dump(mode="json") | changes
    return {"pack.json": json.dumps(manifest).encode(), "memories.jsonl": lines}


GOOD = entries(MEMORY.model_dump_json().encode() + b"\n")


def refuse(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match=why) as caught:
        read_pack(path)
    assert "bad.zip" in caught.value.message


def test_a_pack_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.zip"
    path.write_bytes(packed(GOOD))
    found = read_pack(path)
    assert found.memories == (MEMORY,)
    assert found.places == ("memories.jsonl, line 1",)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    refuse(
        tmp_path,
        packed(GOOD | {"memories.jsonl": GOOD["memories.jsonl"].replace(b"say so", b"pay up")}),
        "sha256",
    )


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/memories.jsonl", "run.py", "C:\\x", "memories.jsonl/"])
def test_entries_that_no_pack_has_are_refused(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, packed(GOOD | {name: b"x"}), r"which no pack has|an entry|a folder with content")


def test_links_and_twice_named_entries_are_refused(tmp_path: Path) -> None:
    def link(entry: zipfile.ZipInfo) -> None:
        if entry.filename == "memories.jsonl":
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16

    refuse(tmp_path, packed(GOOD, link), "a link or a device")
    data = io.BytesIO(packed(GOOD))
    with zipfile.ZipFile(data, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("memories.jsonl", b"")
    refuse(tmp_path, data.getvalue(), "`memories.jsonl` twice")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    refuse(tmp_path, packed(entries(b"\n" * 50_000_000, 0)), "more than 200 times its size")


def test_manifests_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    line = MEMORY.model_dump_json().encode()
    refuse(tmp_path, packed(entries(line, 2)), "holds 1 memories, its manifest says 2")
    refuse(tmp_path, packed(entries(line, schema_version=99)), "which a newer agentkd wrote")
    refuse(tmp_path, packed(entries(line, sha256={})), "differ in `memories.jsonl`")
    refuse(tmp_path, packed({"pack.json": b"[]"}), "line 1")
    refuse(tmp_path, packed({"memories.jsonl": line}), "has no `pack.json`")
    refuse(tmp_path, b"PK\x05\x06" + b"\0" * 18, "has no `pack.json`")
    refuse(tmp_path, packed(GOOD)[:-30], "is not sound")


@pytest.mark.parametrize(
    ("change", "why"),
    [({"surprise": 1}, "surprise"), ({"kind": "wish"}, "`kind`"), ({"confidence": 7}, "out of range"),
     ({"utility": {"recalls": 1, "wins": 2}}, "out of range"), ({"schema_version": 9}, "newer agentkd")],
)  # fmt: skip
def test_one_bad_memory_spoils_the_pack_and_is_named(tmp_path: Path, change: dict, why: str) -> None:
    bad = MEMORY.model_dump(mode="json") | change
    lines = b"\n".join([MEMORY.model_dump_json().encode(), json.dumps(bad).encode()])
    refuse(tmp_path, packed(entries(lines, 2)), rf"`memories.jsonl`, line 2: .*{why}")


def test_evidence_travels_along_where_it_was_asked_for(tmp_path: Path) -> None:
    trajectory = example_trajectory()
    path = tmp_path / "a.zip"
    path.write_bytes(dump_pack([MEMORY], Evidences(trajectories=(trajectory,))))
    assert read_evidence(path).trajectories == (trajectory,)
    path.write_bytes(dump_pack([MEMORY]))
    assert read_evidence(path) == Evidences()
