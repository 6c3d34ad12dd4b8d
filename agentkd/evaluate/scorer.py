"""Scorers without a model: `exact`, `contains`, `regex` and `calls`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.errors import DataError
from agentkd.schema import ToolCall
from agentkd.schema.fit import schema_error

__all__ = ["CallsScorer", "ContainsScorer", "ExactScorer", "RegexScorer", "Score"]

Score = tuple[float, dict[str, float], str]
"""Value in [0, 1], named parts, explanation (empty for a full score)."""

_SEARCHED_CHARS = 20_000


def _texts(item: Any) -> tuple[str, ...]:
    """Return one text or several as a tuple; raises DataError for anything else."""
    texts = (item,) if isinstance(item, str) else tuple(item) if isinstance(item, Sequence) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"a text or a list of texts is wanted, not {item!r}")
    return texts


def _plain(text: str) -> str:
    return " ".join(text.split())


class ExactScorer:
    """The output equals one of the accepted texts, apart from white space."""

    name = "exact"

    def score(self, item: Any, output: Any, context: Mapping[str, Any]) -> Score:
        """Score a text against `item`: one accepted text or a list of them."""
        is_right = _plain(str(output)) in {_plain(text) for text in _texts(item)}
        return (1.0, {}, "") if is_right else (0.0, {}, "The answer is not the accepted one.")


class ContainsScorer:
    """The output contains every wanted text, whatever the case."""

    name = "contains"

    def score(self, item: Any, output: Any, context: Mapping[str, Any]) -> Score:
        """Score by the share of the wanted texts that occur; only all of them give 1.0."""
        said = _plain(str(output)).casefold()
        wanted = _texts(item)
        n_found = sum(_plain(text).casefold() in said for text in wanted)
        text = "" if n_found == len(wanted) else f"{n_found} of {len(wanted)} wanted texts occur."
        return n_found / len(wanted), {}, text


class RegexScorer:
    """A regular expression matches somewhere in the output."""

    name = "regex"

    def score(self, item: Any, output: Any, context: Mapping[str, Any]) -> Score:
        """Score a text against the pattern `item`; raises DataError for a broken pattern."""
        try:
            found = re.search(item, str(output)[:_SEARCHED_CHARS])
        except (re.error, TypeError) as error:
            raise DataError(f"`{item}` is not a regular expression: {error}") from error
        return (1.0, {}, "") if found else (0.0, {}, "The answer does not have the wanted form.")


class CallsScorer:
    """The output is the wanted calls, in order, with equal arguments."""

    name = "calls"

    def score(self, item: Any, output: Any, context: Mapping[str, Any]) -> Score:
        """Score calls against the calls `item`; parts are `tool_choice` and `valid_call`.

        `context["tools"]` holds the ToolSpecs that were offered; without them every call is valid.
        """
        wanted, made = list(item), list(output)
        parts = {
            "tool_choice": float([call.name for call in made] == [call.name for call in wanted]),
            "valid_call": float(bool(made) and _are_valid(made, context.get("tools", ()))),
        }
        if len(made) != len(wanted):
            return 0.0, parts, f"{len(made)} calls were made, {len(wanted)} are wanted."
        for position, (ours, theirs) in enumerate(zip(made, wanted, strict=True), start=1):
            fault = _fault(ours, theirs)
            if fault:
                return 0.0, parts, f"In call {position}, {fault}."
        return 1.0, parts, ""


def _fault(ours: ToolCall, wanted: ToolCall) -> str:
    if ours.name != wanted.name:
        return f"the tool `{ours.name}` is wrong"
    for name in wanted.arguments:
        if name not in ours.arguments:
            return f"the argument `{name}` is missing"
    for name, value in ours.arguments.items():
        if name not in wanted.arguments:
            return f"the argument `{name}` is not wanted"
        if not _is_equal(value, wanted.arguments[name]):
            return f"the value {value!r} of `{name}` is wrong"
    return ""


def _is_equal(ours: Any, wanted: Any) -> bool:
    """Compare JSON values: 2 equals 2.0, true does not equal 1, texts apart from white space."""
    if isinstance(ours, str) and isinstance(wanted, str):
        return _plain(ours) == _plain(wanted)
    if isinstance(ours, bool) or isinstance(wanted, bool):
        return ours is wanted
    if isinstance(ours, dict) and isinstance(wanted, dict):
        return ours.keys() == wanted.keys() and all(_is_equal(v, wanted[k]) for k, v in ours.items())
    if isinstance(ours, list) and isinstance(wanted, list):
        return len(ours) == len(wanted) and all(map(_is_equal, ours, wanted))
    return bool(ours == wanted)


def _are_valid(calls: Sequence[ToolCall], tools: Sequence[Any]) -> bool:
    if not tools:
        return True
    schemas = {tool.name: tool.parameters for tool in tools}
    return all(
        call.name in schemas and schema_error(call.arguments, schemas[call.name]) is None for call in calls
    )
