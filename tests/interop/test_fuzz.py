"""Whatever a file holds, a reader gives memories or a DataError that names the place, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentkd.errors import DataError
from agentkd.interop import FORMATS, Imported, detect, read_foreign
from agentkd.schema import Memory, memory_id

from .interop_values import json_values, names

many = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
fields = st.sampled_from(
    [
        "memory",
        "content",
        "text",
        "memory_type",
        "metadata",
        "extra_info",
        "freq",
        "utility",
        "namespace",
        "value",
        "kind",
        "key",
        "results",
        "bullets",
        "skills",
        "section",
        "helpful",
        "created_at",
        "user_id",
        "id",
        "score",
    ]
)
odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["task", "x", "1e999"])
)
shapes = st.recursive(
    odd | json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields | names, inner, max_size=5),
    max_leaves=12,
)


def check(path: Path, format_: str) -> None:
    try:
        found = read_foreign(path, format_)
    except DataError as error:
        said = error.message
    else:
        check_memories(found)
        return
    assert str(path) in said


def check_memories(found: Imported) -> None:
    assert len(found.memories) == len(found.places)
    for memory in found.memories:
        assert memory.content.strip()
        assert memory.id == memory_id(memory.kind, memory.when_to_use, memory.content, memory.scope)
        assert Memory.model_validate_json(memory.model_dump_json()) == memory


@many
@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf[]")
@example(b'id,memory\n"a')
@example(b"id,memory\n\0,\r\r\n")
@example(b"PK\x03\x04")
@example(b"PK\x05\x06" + b"\0" * 18)
@example(b'{"memory_type":"task","content":"x","score":' + b"9" * 5000 + b"}")
@pytest.mark.parametrize("format_", ["", *FORMATS])
def test_arbitrary_bytes_never_break_a_reader(format_: str, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    check(path, format_)


@many
@given(st.lists(shapes, max_size=3), st.booleans())
@pytest.mark.parametrize("format_", ["", "reme", "ace", "mem0", "langmem"])
def test_arbitrary_json_never_breaks_a_reader(
    format_: str, tmp_path: Path, values: list, is_list: bool
) -> None:
    path = tmp_path / "file"
    text = json.dumps(values) if is_list else "\n".join(map(json.dumps, values))
    path.write_text(text, encoding="utf-8")
    check(path, format_)


@many
@given(
    st.lists(
        st.sampled_from(["## A", "[a] helpful=1 harmful=2 :: b", "[", "::", "x", "", "\x0b", " [a]"]),
        max_size=6,
    )
)
def test_arbitrary_playbooks_never_break_the_reader(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "file"
    path.write_text("\n".join(lines), encoding="utf-8")
    check(path, "ace")


@many
@given(st.text(max_size=120))
def test_arbitrary_skills_never_break_the_reader(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "skill"
    folder.mkdir(exist_ok=True)
    front = "---\nname: skill\ndescription: d\nmetadata:\n  agentkd-memories: a b\n---\n"
    (folder / "SKILL.md").write_bytes((front + text).encode("utf-8", "replace"))
    check(folder, "skill")
    assert detect(folder) == "skill"
