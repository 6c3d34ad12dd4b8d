"""Reads corrections by their structure: what they are about, which value stood in the end, what is general.

After DROC (arXiv 2311.10678): a later correction overrules an earlier one, and what is kept is relative to
the request, never the value of one instance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkd.distill.source import INSTANCE
from agentkd.schema import Correction, ToolCall, Trajectory, canonical_json, user_turns

__all__ = [
    "About",
    "Change",
    "about",
    "accepted_last",
    "by_trajectory",
    "final_changes",
    "has_word",
    "in_order",
    "is_in_tools_place",
    "is_instance",
    "is_verdict",
    "overruled_values",
    "proposed_of",
    "relative",
    "source_of",
    "standing_remarks",
]

About = Literal["plan", "parameter", "preference", "constraint"]

_AUTHORITIES = ("person", "grader")
_PREFERENCE = re.compile(
    r"\b(always|never|prefer(s|red|ence)?|instead|rather|by default|from now on|every time|usually)\b",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"\W*(actually|no,|on second thoughts?|never ?mind|forget (that|it)|i changed my mind)\b", re.IGNORECASE
)
_VERDICT = re.compile(
    r"(\W|_|\b(no|nope|not|yes|ok|okay|wrong|incorrect|right|bad|good|great|fine|thanks?|thank you|stop)\b)*",
    re.IGNORECASE,
)
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_ID_CHARS = 4  # a text this long that holds a digit names one thing
_LARGE = 100  # numbers from here on are amounts and identifiers, not choices


@dataclass(frozen=True)
class Change:
    """One parameter that a correction set, changed or took away."""

    tool: str
    parameter: str
    value: Any
    is_left_out: bool
    correction: Correction


def by_trajectory(corrections: Iterable[Correction]) -> Mapping[str, list[Correction]]:
    """Group corrections by what they correct."""
    groups: dict[str, list[Correction]] = {}
    for correction in corrections:
        groups.setdefault(correction.trajectory_id, []).append(correction)
    return groups


def about(correction: Correction, proposed: Sequence[ToolCall]) -> About:
    """Return what a correction is about, by its structure first and its words last."""
    if correction.accepted and proposed:
        same = {c.name for c in correction.accepted} <= {c.name for c in proposed}
        return "parameter" if same else "plan"
    if correction.proposed and not correction.accepted and not correction.accepted_answer:
        return "plan"
    if correction.kind in ("plan", "parameter", "preference"):
        return correction.kind
    return "preference" if _PREFERENCE.search(correction.text) else "constraint"


def proposed_of(correction: Correction, trajectory: Trajectory) -> tuple[ToolCall, ...]:
    """Return what the agent wanted to call, also where only the run remembers it."""
    if correction.proposed or correction.step is None or correction.step >= len(trajectory.steps):
        return correction.proposed
    return trajectory.steps[max(correction.step, 0)].reply.tool_calls


def accepted_last(corrections: Sequence[Correction]) -> list[Correction]:
    """Return the corrections whose accepted calls or answer no later one overruled, oldest first.

    The word of a tool or a judge never overrules that of a person or a grader.
    """
    given = [c for c in in_order(corrections) if c.accepted or c.accepted_answer]
    return [c for i, c in enumerate(given) if not any(_overrules(later, c) for later in given[i + 1 :])]


def in_order(corrections: Iterable[Correction]) -> list[Correction]:
    """Return corrections oldest first, those of persons and graders after those of tools and judges."""
    return sorted(corrections, key=lambda c: (c.source in _AUTHORITIES, c.created_at))


def _overrules(later: Correction, earlier: Correction) -> bool:
    if _place(later) != _place(earlier):
        return False
    return not later.proposed or later.proposed in (earlier.proposed, earlier.accepted)


def _place(correction: Correction) -> int | None:
    """Return the step that a correction is about: calls for a whole run are its first, an answer its last."""
    return 0 if correction.step is None and correction.accepted else correction.step


def is_verdict(text: str) -> bool:
    """Whether a remark says good or bad and nothing to do, such as `no` or a thumb."""
    return _VERDICT.fullmatch(text) is not None


def is_in_tools_place(correction: Correction) -> bool:
    """Whether a person answered in the place of a tool: a result like any other, and no lesson."""
    return correction.kind == "answer" and not (correction.accepted or correction.accepted_answer)


def standing_remarks(corrections: Sequence[Correction]) -> list[Correction]:
    """Return remarks without a call that stand: `actually ...` takes back the one before on the same step.

    Who then says again what he took back takes back the other.
    """
    standing: list[Correction] = []
    instead_of: dict[tuple[int | None, str], Correction] = {}
    for correction in in_order(corrections):
        last, said = (standing[-1] if standing else None), (correction.step, correction.text)
        is_change = _RETRACTION.match(correction.text) or instead_of.get(said) is last
        if last is not None and last.step == correction.step and is_change:
            instead_of[last.step, last.text] = correction
            standing.pop()
        standing.append(correction)
    return standing


def final_changes(trajectory: Trajectory, corrections: Sequence[Correction]) -> list[Change]:
    """Return what stood in the end for each parameter of each tool; earlier values are overruled.

    A later correction that lets another value of the same parameter pass overrules it too.
    """
    last: dict[tuple[str, str], Change] = {}
    for change in _changes(trajectory, corrections):
        last.pop((change.tool, change.parameter), None)
        last[change.tool, change.parameter] = change
    order = {correction.id: i for i, correction in enumerate(in_order(corrections))}
    for key, change in last.items():
        for later in in_order(corrections)[order[change.correction.id] + 1 :]:
            for call in later.accepted:
                if call.name == change.tool and change.parameter in call.arguments:
                    last[key] = Change(*key, call.arguments[change.parameter], False, later)
    return list(last.values())


def overruled_values(trajectory: Trajectory, corrections: Sequence[Correction]) -> list[tuple[Any, Any]]:
    """Return (value that was overruled, value that stood in the end) of each parameter corrected again."""
    final = {(c.tool, c.parameter): c for c in final_changes(trajectory, corrections)}
    pairs = []
    for change in _changes(trajectory, corrections):
        stood = final[change.tool, change.parameter]
        if canonical_json(change.value) != canonical_json(stood.value) and not change.is_left_out:
            pairs.append((change.value, stood.value))
    return pairs


def _changes(trajectory: Trajectory, corrections: Sequence[Correction]) -> Iterator[Change]:
    for correction in in_order(corrections):
        before = list(proposed_of(correction, trajectory))
        for call in correction.accepted:
            twin = next((c for c in before if c.name == call.name), None)
            if twin is None:
                continue
            before.remove(twin)
            for name, value in call.arguments.items():
                if name not in twin.arguments or twin.arguments[name] != value:
                    yield Change(call.name, name, value, False, correction)
            for name in twin.arguments.keys() - call.arguments.keys():
                yield Change(call.name, name, None, True, correction)


def source_of(change: Change, trajectory: Trajectory) -> str:
    """Return where an accepted value could be read: `request`, a tool's name, or empty for nowhere."""
    step = change.correction.step if change.correction.step is not None else len(trajectory.steps)
    if isinstance(change.value, bool) or change.value in (None, "", [], {}):
        return ""
    said = [text for i, turns in user_turns(trajectory).items() if i < step for text in turns]
    if _stands_in(change.value, "\n".join([trajectory.task.prompt, *said])):
        return "request"
    for earlier in reversed(trajectory.steps[:step]):
        for call, result in zip(earlier.accepted_calls, earlier.results, strict=False):
            if _stands_in(change.value, result.content):
                return call.name
    return ""


def _stands_in(value: Any, text: str) -> bool:
    """Whether every leaf of a value stands in a text as a word of its own."""
    leaves = list(_leaves(value))
    return bool(leaves) and all(any(has_word(form, text) for form in _forms(leaf)) for leaf in leaves)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield value


def _forms(leaf: Any) -> list[str]:
    forms = [str(leaf).strip()]
    if isinstance(leaf, float) and leaf.is_integer():
        forms.append(str(int(leaf)))
    if isinstance(leaf, int) and 0 <= leaf < len(_NUMBERS):
        forms.append(_NUMBERS[leaf])
    return [form for form in forms if form]


def has_word(word: str, text: str) -> bool:
    """Whether a text holds a word or phrase as a whole, in any case and spacing."""
    pattern = rf"(?<!\w){re.escape(' '.join(word.split()))}(?!\w)"
    return bool(word.strip()) and re.search(pattern, " ".join(text.split()), re.IGNORECASE) is not None


def is_instance(value: Any) -> bool:
    """Whether a value names one thing (a date, an address, an id, an amount) and no general choice."""
    return any(_is_instance(leaf) for leaf in _leaves(value))


def _is_instance(leaf: Any) -> bool:
    if isinstance(leaf, (int, float)):
        return abs(leaf) >= _LARGE or leaf != int(leaf)
    text = str(leaf)
    return len(text) >= _ID_CHARS and (any(c.isdigit() for c in text) or bool(INSTANCE.search(text)))


def relative(text: str, trajectory: Trajectory) -> str:
    """Return a remark without the dates, numbers, addresses and quoted texts of its instance."""
    request = "\n".join([trajectory.task.prompt, *(t for ts in user_turns(trajectory).values() for t in ts)])
    results = "\n".join(r.content for step in trajectory.steps for r in step.results)

    def general(match: re.Match[str]) -> str:
        inner = match[0].strip("\"'“” .,")
        if inner and has_word(inner, request):
            return "[as in the request]"
        return "[as in the result]" if inner and has_word(inner, results) else match[0]

    return " ".join(INSTANCE.sub(general, text).split())
