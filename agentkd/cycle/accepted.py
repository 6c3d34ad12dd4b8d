"""Which rows keep their targets whatever a chat teacher says: accepted ones, and calls against prose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from agentkd.cycle.parts import Parts
from agentkd.schema import Example, ToolSpec, Trajectory, call_fault
from agentkd.trust import trust_of_run

if TYPE_CHECKING:
    from agentkd.train.remote import Said

__all__ = ["kept_targets", "no_calls"]


def kept_targets(parts: Parts, examples: Sequence[Example]) -> dict[str, frozenset[str]]:
    """Return the rows for whose target nobody is asked, by the reason; it is empty where none is learnt.

    A teacher's words take the place of the model's own alone: not of what a person or a grader accepted, nor
    of what a row was written for, nor where untrusted words came into the run: somebody vouched for that
    target.
    """
    from agentkd.train.remote import label_weight

    vouched = _vouched(parts, examples)
    accepted = frozenset(e.id for e in examples if not _is_own(e)) - vouched
    unlearnt = frozenset(e.id for e in examples if not label_weight(e)) - vouched - accepted
    return {
        "untrusted words came into their runs": vouched,
        "they are no own answers of the model": accepted,
        "": unlearnt,
    }


def no_calls(parts: Parts, examples: Iterable[Example], answers: Mapping[str, Said]) -> frozenset[str]:
    """Return the rows whose target is a call and whose answer is a whole text, but no call in its place.

    Such a one is the JSON of a call of a tool that the row's task offers, with arguments that fit its schema.
    """
    from agentkd.cycle.stage import tools_of

    asked = [e for e in examples if e.target.tool_calls and e.id in answers and not answers[e.id].is_cut]
    runs, find = _runs(parts, asked), tools_of(parts)

    def is_call(example: Example) -> bool:
        tasks = [runs[id_].task for id_ in example.provenance.trajectories if id_ in runs]
        return bool(tasks) and _is_call(answers[example.id].text, find(tasks[0]))

    return frozenset(example.id for example in asked if not is_call(example))


def _is_call(text: str, tools: Sequence[ToolSpec]) -> bool:
    from agentkd.models.grammar import parse_calls

    calls = parse_calls(text, tools)
    return bool(tools and calls) and not any(call_fault(call, tools) for call in calls)


def _is_own(example: Example) -> bool:
    """Whether the target is what the model said of its own in a run that succeeded."""
    is_given = example.target.origin != "model" or example.provenance.corrections
    return not is_given and example.kind != "synthetic"


def _vouched(parts: Parts, examples: Sequence[Example]) -> frozenset[str]:
    """Return the rows that untrusted words came into; a run that the ledger does not hold is such a one."""
    trust = parts.settings.trust
    if not trust.gate:
        return frozenset()
    clean = {id_ for id_, run in _runs(parts, examples).items() if trust_of_run(run, trust).is_clean}
    return frozenset(e.id for e in examples if not clean.issuperset(e.provenance.trajectories))


def _runs(parts: Parts, examples: Iterable[Example]) -> dict[str, Trajectory]:
    named = dict.fromkeys(id_ for example in examples for id_ in example.provenance.trajectories)
    return {run.id: run for run in parts.trajectories(named)}
