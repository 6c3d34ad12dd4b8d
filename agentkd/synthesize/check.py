"""What is wrong with an item by itself, without its suite: tools, schema, values from nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentkd.schema import NOTES_BEGIN, Synthetic, ToolCall, ToolSpec, call_fault

__all__ = ["fault_of", "kept_values"]

_LONGEST = 8000  # characters of a request or an answer


def fault_of(item: Synthetic) -> str:
    """Return what is wrong with an item, in words that its writer can act upon; empty for nothing."""
    if not item.prompt.strip():
        return "the request is empty"
    if not item.calls and not item.answer.strip():
        return "there is neither a call nor an answer"
    if max(len(item.prompt), len(item.answer)) > _LONGEST:
        return f"a text is longer than {_LONGEST} characters"
    if NOTES_BEGIN in item.prompt:
        return "the request holds the mark of recalled notes"
    specs = {tool.name: tool for tool in item.tools}
    for call in item.calls:
        if fault := call_fault(call, item.tools):
            return fault
    if not item.proof and not _is_grounded(item, specs):
        return "no argument of the calls stands in the request"
    return ""


def _is_grounded(item: Synthetic, specs: Mapping[str, ToolSpec]) -> bool:
    """Whether some free text among the arguments shares a word with the request, where there is any."""
    said = _words(item.prompt + " " + item.system)
    free = [
        _words(value)
        for call in item.calls
        for name, argument in call.arguments.items()
        if not _is_given(specs.get(call.name), name, argument)
        for value in _texts(argument)
    ]
    free = [words for words in free if words]
    return not free or any(words & said for words in free)


def _is_given(tool: ToolSpec | None, name: str, value: Any) -> bool:
    """Whether the schema itself offers a value: an enumeration or the default."""
    schema = (tool.parameters.get("properties") or {}).get(name, {}) if tool is not None else {}
    return isinstance(schema, Mapping) and ("enum" in schema or schema.get("default", ...) == value)


def kept_values(calls: tuple[ToolCall, ...], before: str, after: str) -> str:
    """Return a value of the calls that stood in one wording and is missing in the other; empty for none."""
    old, new = before.casefold(), after.casefold()
    for call in calls:
        for value in _leaves(call.arguments):
            text = str(value).casefold().strip()
            if len(text) > 1 and text in old and text not in new:
                return str(value)
    return ""


def _texts(value: Any) -> Iterator[str]:
    return (leaf for leaf in _leaves(value) if isinstance(leaf, str))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
    elif not isinstance(value, bool) and value is not None:
        yield value


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2 or word.isdigit()}
