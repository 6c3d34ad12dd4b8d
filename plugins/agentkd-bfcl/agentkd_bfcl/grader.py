"""Judges one call against the accepted answers, as the benchmark's checker of syntax trees does.

The rules, written anew after `bfcl_eval/eval_checker/ast_eval/ast_checker.py`: every argument's value is
one of the accepted ones, none is missing unless `""` is accepted, none is extra. Texts are compared
without case, spaces and the characters ``,./-_*^``, single quotes as double ones. A whole number passes
for a float. Lists keep their order; objects are compared argument by argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.schema import Outcome, ToolCall, ToolSpec
from agentkd_bfcl.answer import is_valid
from agentkd_bfcl.data import Answer

__all__ = ["GRADER", "check_arguments", "grade_calls", "is_same_text"]

GRADER = "bfcl-live"

_PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def grade_calls(
    calls: Sequence[ToolCall], *, tool: ToolSpec, offered: Sequence[ToolSpec], answer: Answer
) -> Outcome:
    """Judge what an agent called; `parts` are `tool_choice` and `valid_call`, success is the whole call."""
    if len(calls) != 1:
        said = f"{len(calls)} calls were made" if calls else "No tool was called"
        return _outcome(False, False, f"{said}; one call was wanted.")
    call = calls[0]
    known = {spec.name: spec for spec in offered}
    valid = call.name in known and is_valid(call.arguments, known[call.name].parameters)
    if call.name != tool.name:
        return _outcome(False, valid, f"The tool `{call.name}` is wrong for this request.")
    fault = check_arguments(call.arguments, tool, answer)
    return _outcome(True, valid, fault, success=not fault)


def _outcome(tool_choice: bool, valid: bool, feedback: str, *, success: bool = False) -> Outcome:
    return Outcome(
        success=success,
        reward=float(success),
        parts={"tool_choice": float(tool_choice), "valid_call": float(valid)},
        feedback=feedback,
        grader=GRADER,
    )


def check_arguments(arguments: Mapping[str, Any], tool: ToolSpec, answer: Answer) -> str:
    """Return what is wrong with the arguments in one sentence; empty where nothing is."""
    properties = tool.parameters.get("properties", {})
    for name in tool.parameters.get("required", ()):
        if name not in arguments:
            return f"The argument `{name}` is required."
    for name, value in arguments.items():
        if name not in properties or name not in answer:
            return f"The argument `{name}` does not belong into this call."
        if not _is_accepted(value, answer[name], properties[name]):
            return f"The value {value!r} of `{name}` is wrong."
    for name, values in answer.items():
        if name not in arguments and "" not in values:
            return f"The argument `{name}` is missing."
    return ""


def is_same_text(ours: str, accepted: str) -> bool:
    """Compare two texts as the benchmark does."""
    return _standardise(ours) == _standardise(accepted)


def _standardise(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _is_accepted(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    expected = _PYTHON_TYPES.get(schema.get("type", "string"), str)
    if expected is float and type(value) is int:
        value = float(value)
    if expected in (list, dict) and type(value) is not expected:
        return False
    return any(_is_equal(value, other, expected, schema.get("items", {})) for other in accepted)


def _is_equal(value: Any, other: Any, expected: type, items: Mapping[str, Any]) -> bool:
    """Compare a value with one accepted value; `expected` is the type that the tool documents."""
    if isinstance(value, str):
        return isinstance(other, str) and is_same_text(value, other)
    if isinstance(value, dict):
        return isinstance(other, dict) and _is_equal_object(value, other)
    if isinstance(value, list):
        inner = _PYTHON_TYPES.get(items.get("type", "string"), str)
        return (
            isinstance(other, list)
            and len(value) == len(other)
            and all(_is_equal(v, o, inner, items.get("items", {})) for v, o in zip(value, other, strict=True))
        )
    return type(value) in (expected, type(other)) and bool(value == other)


def _is_equal_object(value: Mapping[str, Any], accepted: Mapping[str, Any]) -> bool:
    # In an accepted object every key holds a list of accepted values.
    for key, item in value.items():
        options = accepted.get(key)
        if options is None:
            return False
        choices = options if isinstance(options, list) else [options]
        if not any(_is_equal(item, choice, type(choice), {}) for choice in choices):
            return False
    return all(key in value or (isinstance(v, list) and "" in v) for key, v in accepted.items())
