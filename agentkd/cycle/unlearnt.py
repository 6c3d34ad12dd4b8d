"""Whether a student still does what was revoked: replayed on the requests that taught it, against its base.

The behaviour of a request is what the tainted rows that rest on something revoked made the student say, as
far as no clean row of the candidate says the same and the task's grader does not accept it: an answer that is
right may come back by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.config import Settings
from agentkd.cycle.parts import Parts
from agentkd.cycle.probe import TaskKey, key_of, replay, replayed
from agentkd.schema import Example, Message, Task, ToolCall, Trajectory, Verdict, canonical_json, content_id

if TYPE_CHECKING:
    from agentkd.evaluate import Check

__all__ = ["compare_behaviour", "old_behaviour", "rival_of", "shows", "unlearnt_check", "with_check"]

Said = frozenset[str]
"""Answers in one spelling: calls as canonical JSON, texts without their edges."""

FLAG = "still_does"
"""What a verdict calls a candidate that does what was revoked."""


def unlearnt_check(parts: Parts, candidate: str, *, runs: bool = True) -> Check | None:
    """Compare how often candidate and base show the revoked behaviour; None where none was ever trained on.

    Without `runs` only what was replayed before is looked at.
    """
    tasks, behaviour = old_behaviour(parts, candidate)
    if not tasks:
        return None
    read = replay if runs else replayed
    ours, base = (read(parts, tasks, model) for model in (f"agentkd/{candidate}", "base"))
    return compare_behaviour(parts.settings, behaviour, ours, base)


def compare_behaviour(
    settings: Settings,
    behaviour: Mapping[TaskKey, Said],
    ours: Mapping[TaskKey, Trajectory],
    base: Mapping[TaskKey, Trajectory],
) -> Check | None:
    """Check that replays of a candidate show a behaviour no more often than those of the base.

    Back at base level means: the paired interval of the difference holds 0, and the difference is at most
    `[revoke] max_rate`. None where nothing was replayed by both.
    """
    from agentkd.evaluate import Check, paired_bootstrap

    keys = sorted(ours.keys() & base.keys() & behaviour.keys())
    if not keys:
        return None
    student = [_does(ours[key], behaviour[key]) for key in keys]
    before = [_does(base[key], behaviour[key]) for key in keys]
    change = paired_bootstrap(student, before, n_resamples=settings.evaluate.bootstrap)
    rate, level = sum(student) / len(keys), sum(before) / len(keys)
    passed = change.low <= 0 and change.value <= settings.revoke.max_rate
    return Check(
        FLAG,
        passed,
        f"What was revoked is {'gone' if passed else 'still there'}: shown on {rate:.3f} of {len(keys)} "
        f"requests that taught it, {level:.3f} by the base "
        f"({change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]).",
        {
            "revoked_rate": rate,
            "revoked_base": level,
            "revoked_high": change.high,
            "revoked_n": float(len(keys)),
        },
    )


def rival_of(parts: Parts, serving: str) -> str:
    """Return what a candidate must beat: what serves, but the base where that is tainted and has to go."""
    if serving != "base" and parts.checkpoint(serving).status == "tainted":
        return "base"
    return serving


def with_check(verdict: Verdict, check: Check | None) -> Verdict:
    """Return a verdict with one more check; a check that fails refuses the candidate."""
    if check is None:
        return verdict
    return verdict.model_copy(
        update={
            "promote": verdict.promote and check.passed,
            "reasons": (*verdict.reasons, check.sentence),
            "flags": verdict.flags if check.passed else (*verdict.flags, check.flag),
            "numbers": {**verdict.numbers, **check.numbers},
        }
    )


def old_behaviour(parts: Parts, candidate: str = "") -> tuple[list[Task], dict[TaskKey, Said]]:
    """Return the requests that taught what was revoked, at most `[revoke] probes`, and what they taught.

    Answers that clean rows under `candidate` teach for the same request do not count.
    """
    revocations = parts.ledger.revocations
    sources = revocations.forbidden()
    suites = set(parts.registry.names("suite"))
    clean = _clean_answers(parts, candidate) if candidate else {}
    taught: dict[str, set[str]] = {}
    for dataset_id in sorted(revocations.datasets()):
        tainted = revocations.rows(dataset_id)
        for row in _examples(parts.root / "datasets" / dataset_id):
            on = [id_ for id_ in row.provenance.trajectories if id_ in sources] if row.id in tainted else []
            said = _said(row.target)
            if on and said and said not in clean.get(row.task_id, ()):
                taught.setdefault(on[0], set()).add(said)
    tasks: dict[TaskKey, Task] = {}
    behaviour: dict[TaskKey, Said] = {}
    for trajectory in parts.ledger.trajectories.get_many(taught):
        task = trajectory.task
        if task.suite in suites and not task.is_held_out:
            key = key_of(task)
            tasks.setdefault(key, task)
            behaviour[key] = behaviour.get(key, frozenset()) | taught[trajectory.id]
    drawn = sorted(tasks, key=lambda key: content_id("draw", key))[: parts.settings.revoke.probes]
    return [tasks[key] for key in sorted(drawn)], behaviour


def shows(trajectory: Trajectory, said: Iterable[str]) -> bool:
    """Whether a run says one of these answers in any of its turns."""
    wanted = set(said)
    return any(_said(turn) in wanted for turn in _turns(trajectory))


def _does(trajectory: Trajectory, said: Said) -> float:
    """Return 1 where a run shows the behaviour and the grader does not accept what it did."""
    return float(shows(trajectory, said) and not trajectory.success)


def _turns(trajectory: Trajectory) -> Iterator[Message]:
    for step in trajectory.steps:
        calls: Sequence[ToolCall] = step.accepted_calls
        if not calls:
            yield step.reply
        for call in calls:  # a row's target is one call
            yield Message(role="assistant", tool_calls=(call,))


def _said(message: Message) -> str:
    if message.tool_calls:
        return canonical_json([[call.name, call.arguments] for call in message.tool_calls])
    return message.content.strip()


def _clean_answers(parts: Parts, candidate: str) -> Mapping[str, set[str]]:
    dataset_id = parts.checkpoint(candidate).dataset_id
    tainted = parts.ledger.revocations.rows(dataset_id)
    found: dict[str, set[str]] = {}
    for row in _examples(parts.root / "datasets" / dataset_id):
        if row.id not in tainted:
            found.setdefault(row.task_id, set()).add(_said(row.target))
    return found


def _examples(folder: Path) -> Iterator[Example]:
    from agentkd.compiler.write import read_examples

    for split in ("train", "dev"):
        if (folder / f"{split}.jsonl").is_file():
            yield from read_examples(folder / f"{split}.jsonl")
