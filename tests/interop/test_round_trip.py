"""A memory that goes out and comes back is the memory it was, in all that its format can say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkd.errors import ConfigError, DataError
from agentkd.interop import detect, read_foreign, write_foreign
from agentkd.interop.pack import dump_pack
from agentkd.schema import Memory, Scope

from .interop_values import lines, memories, texts

several = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def there_and_back(found: list[Memory], path: Path, format_: str) -> tuple[Memory, ...]:
    write_foreign(found, path, format_, replace=True)
    imported = read_foreign(path, format_)
    assert imported.skipped == ()
    return imported.memories


def records(path: Path) -> list[object]:
    text = path.read_text(encoding="utf-8")
    return (
        json.loads(text)["results"] if '"results"' in text[:20] else list(map(json.loads, text.splitlines()))
    )


def said(memory: Memory) -> dict[str, object]:
    """Return what every format but the playbook can say."""
    return {
        "kind": memory.kind,
        "when": memory.when_to_use,
        "content": memory.content,
        "keys": memory.keys,
        "scope": memory.scope,
        "recalls": memory.utility.recalls,
        "wins": memory.utility.wins,
        "confidence": memory.confidence,
        "is_private": memory.privacy == "private" or bool(memory.scope.user),
    }


@several
@given(st.lists(memories(), max_size=4))
def test_a_pack_loses_nothing(tmp_path: Path, found: list[Memory]) -> None:
    assert there_and_back(found, tmp_path / "a.zip", "pack") == tuple(found)


@several
@given(st.lists(memories(), min_size=1, max_size=4))
@pytest.mark.parametrize("format_", ["reme", "mem0", "langmem"])
def test_keys_counts_and_texts_come_back(format_: str, tmp_path: Path, found: list[Memory]) -> None:
    back = there_and_back(found, tmp_path / "out", format_)
    assert [said(memory) for memory in back] == [said(memory) for memory in found]
    assert [memory.id for memory in back] == [memory.id for memory in found]


@several
@given(st.lists(memories(), min_size=1, max_size=4))
@pytest.mark.parametrize("format_", ["reme", "mem0", "langmem"])
def test_a_file_that_was_read_is_written_as_it_was(format_: str, tmp_path: Path, found: list[Memory]) -> None:
    path = tmp_path / "out"
    write_foreign(found, path, format_, replace=True)
    before = records(path)
    there_and_back(list(read_foreign(path, format_).memories), path, format_)
    assert records(path) == before


@several
@given(st.lists(memories(text=lines, scope=Scope(app="shop")), min_size=1, max_size=4))
def test_a_playbook_keeps_texts_and_counts(tmp_path: Path, found: list[Memory]) -> None:
    path = tmp_path / "playbook.txt"
    first = there_and_back(found, path, "ace")
    assert sorted((m.utility.wins, m.utility.recalls) for m in first) == sorted(
        (m.utility.wins, m.utility.recalls) for m in found
    )
    before = path.read_text(encoding="utf-8")
    again = there_and_back(list(first), path, "ace")
    assert path.read_text(encoding="utf-8") == before
    assert [m.content for m in again] == [m.content for m in first]


@several
@given(st.lists(memories(text=lines, scope=Scope(app="shop")), min_size=1, max_size=4), texts)
def test_a_skill_keeps_situations_texts_and_kinds(tmp_path: Path, found: list[Memory], more: str) -> None:
    found = [m.model_copy(update={"content": f"{m.content}\n{more.strip()}\n\nthen stop"}) for m in found]
    back = there_and_back(found, tmp_path / "lessons", "skill")
    assert [(m.kind, m.when_to_use, m.content, m.scope) for m in back] == [
        (m.kind, m.when_to_use, m.content, m.scope) for m in found
    ]
    assert [m.extras["skill"]["id"] for m in back] == [m.id for m in found]


@pytest.mark.parametrize("format_", ["pack", "reme", "ace", "mem0", "langmem", "skill"])
def test_every_written_format_is_detected(format_: str, tmp_path: Path) -> None:
    memory = Memory(id="mem-1", kind="pitfall", when_to_use="a cart is empty", content="say so")
    path = tmp_path / "written"
    write_foreign([memory], path, format_)
    assert detect(path) == format_
    assert "say so" in read_foreign(path).memories[0].content


def test_what_exists_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    memory = Memory(id="mem-1", kind="pitfall", when_to_use="a cart is empty", content="say so")
    path = tmp_path / "out.jsonl"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists already"):
        write_foreign([memory], path, "reme")
    assert path.read_text(encoding="utf-8") == "mine"
    assert write_foreign([memory], path, "reme", replace=True) == path
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_folder_that_is_no_exported_skill_is_never_replaced(tmp_path: Path) -> None:
    memory = Memory(id="mem-1", kind="pitfall", when_to_use="a cart is empty", content="say so")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "SKILL.md").write_text("---\nname: mine\ndescription: Mine.\n---\nBy hand.\n")
    with pytest.raises(ConfigError, match="not made of memories"):
        write_foreign([memory], tmp_path / "mine", "skill", replace=True)
    with pytest.raises(DataError, match="at least one"):
        write_foreign([], tmp_path / "none", "skill")


def test_equal_packs_have_equal_bytes() -> None:
    memory = Memory(id="mem-1", kind="pitfall", when_to_use="a cart is empty", content="say so")
    assert dump_pack([memory], created_at=memory.created_at) == dump_pack(
        [memory], created_at=memory.created_at
    )


@pytest.mark.parametrize("format_", ["ace", "mem0", "langmem", "reme", "pack"])
@pytest.mark.parametrize(
    "kept",
    ["text", [1], {"id": ["x"], "at": ["content", "x"], "value": "text"}, {"at": ["a"], "value": None}],
)
def test_no_extras_of_a_pack_can_keep_memories_from_being_exported(
    tmp_path: Path, format_: str, kept: object
) -> None:
    sly = Memory(id="mem-1", kind="fact", when_to_use="a", content="b", extras={format_: kept})
    (back,) = there_and_back([sly], tmp_path / "out", format_)
    assert "b" in back.content
