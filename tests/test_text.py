"""Texts of strangers: halves of surrogate pairs become a sign that can be written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentkd.schema import Memory, Task, ToolCall, ToolResult
from agentkd.schema.text import whole

HALF = {"half \ud83d": ["\udc00", {"in \udc00": "\ud83d\ude00"}], "n": 1}
WHOLE = {"half \ufffd": ["\ufffd", {"in \ufffd": "\U0001f600"}], "n": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("ü 🜁 \x00", "ü 🜁 \x00"),
        ("\ud83d", "\ufffd"),
        ("\udc80🜁\ud83d\ude00", "\ufffd🜁\U0001f600"),
    ],
    ids=["ascii", "whole", "half", "mixed"],
)
def test_a_text_keeps_all_but_the_halves(text: str, expected: str) -> None:
    assert whole(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        ToolCall(name="find", arguments=HALF),
        ToolResult(value=HALF),
        Memory(id="mem-1", kind="fact", when_to_use="w", content="c", extras=HALF),
        Task(id="t-1", suite="adhoc", prompt="p", extras=HALF),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_of_strangers_can_be_rendered(value: Any) -> None:
    assert WHOLE in json.loads(value.model_dump_json()).values()
