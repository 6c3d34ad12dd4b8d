"""Certified retirement: a compiled memory leaves the context only where its own probes are done without it.

All memories that a student holds are withheld at one time, so that each request is replayed once however
many memories it speaks for, and no near copy of a memory answers in its place. A request that fails is
replayed once more with everything recalled: what is done then and not without is lost. What would stay is
looked at as a whole at last: memories that credibly harm the student beside its weights leave as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentkd import hookspecs
from agentkd.config import RetireSettings
from agentkd.cycle.leftover import Together, together
from agentkd.cycle.parts import Parts
from agentkd.cycle.placed import measured_places
from agentkd.cycle.probe import TaskKey, key_of, probes_of, replay
from agentkd.cycle.replay import ancestor_datasets
from agentkd.cycle.stage import StageResult
from agentkd.schema import Evaluation, Memory, Task, Trajectory, Usage, Value, Verdict, place_of

__all__ = ["Certificate", "certificates", "counts_of", "held_memories", "lacks_certificates", "retire_phase"]


class Certificate(Value):
    """Whether one memory may leave the context of one student, with the figures."""

    memory_id: str
    """The memory."""
    is_retired: bool
    """Whether it leaves."""
    n: int = 0
    """Probes: requests that it rests on or was recalled for."""
    done: int = 0
    """Those of them that the student does without it."""
    lost: int = 0
    """Those that it does with its memories only; looked at where `done` alone would pass."""
    as_whole: bool = False
    """Whether it failed, and leaves because what stayed was credibly harmful as a whole."""
    reason: str = ""
    """Why, in words."""


def retire_phase(
    parts: Parts,
    key: str,
    candidate: str,
    verdict: Verdict | None,
    evaluations: Sequence[Evaluation],
    serving: str = "base",
) -> StageResult:
    """Mark what the weights now hold, and drop from the context what passes its probes.

    Where the candidate is not promoted this is done for what serves, if it has no certificates yet: it was
    promoted by hand. Statuses hold where that student serves and nowhere else; all of them are set in one
    transaction.
    """
    if verdict is None or not verdict.promote:
        if not lacks_certificates(parts, key, serving):
            return StageResult("nothing was promoted", {"compiled": 0, "retired": 0})
        candidate = serving
    memories = held_memories(parts, candidate)
    found, usage, left = certificates(parts, key, candidate, memories)
    with parts.ledger.transaction():
        for certificate in found:
            parts.ledger.memories.set_status(
                certificate.memory_id,
                "retired" if certificate.is_retired else "compiled",
                f"in the weights of `{candidate}`; {certificate.reason}",
                checkpoint=candidate,
                details={"certificate": certificate.model_dump(mode="json"), "phase": key},
            )
    parts.memory.sync()
    return _result(parts, candidate, found, evaluations, usage, left)


def lacks_certificates(parts: Parts, key: str, checkpoint: str) -> bool:
    """Whether a sound student holds memories and none was judged yet, unless by the phase of this key."""
    if checkpoint == "base" or parts.checkpoint(checkpoint).status == "tainted":
        return False
    memories = held_memories(parts, checkpoint)
    events = (e for memory in memories for e in parts.ledger.memories.events(memory_id=memory.id))
    given = (e for e in events if e.checkpoint == checkpoint and "certificate" in e.details)
    return bool(memories) and all(event.details.get("phase") == key for event in given)


def held_memories(parts: Parts, checkpoint: str) -> list[Memory]:
    """Return the memories under the rows of a checkpoint and its ancestors, as far as recall shows them.

    What was measured to belong into the context, or nowhere, is left out: rows only showed it.
    """
    datasets = ancestor_datasets(parts, checkpoint)
    rows = (row for dataset_id in datasets for row in parts.ledger.datasets.rows(dataset_id))
    ids = dict.fromkeys(memory for row in rows for memory in row.provenance.memories)
    current = parts.ledger.memories.status_for("base", ids)
    shown, places = ("active", "compiled"), measured_places(parts)
    return [
        memory
        for memory in parts.ledger.memories.get_many(ids)
        if current.get(memory.id) in shown and place_of(memory, places) in ("weights", "both")
    ]


def certificates(
    parts: Parts, key: str, candidate: str, memories: Sequence[Memory]
) -> tuple[list[Certificate], Usage, Together]:
    """Replay the probes of memories on a student that holds them, and judge each memory by its own.

    Returns one certificate per memory, what the replays cost, and what those that stay do together.

    Args:
        parts: The workspace.
        key: Of the phase: what was replayed under it is not run again.
        candidate: The student.
        memories: What it holds.
    """
    settings, model = parts.settings.retire, f"agentkd/{candidate}"
    places = measured_places(parts)
    may_leave = [memory for memory in memories if place_of(memory, places) == "weights"]
    probes = probes_of(parts, may_leave, settings.probes) if settings.probes else {}
    everything = {key_of(task): task for tasks in probes.values() for task in tasks}
    withheld = [memory.id for memory in memories]
    without = replay(
        parts, everything.values(), model, withheld=withheld, occasion=key, label="probe without memory"
    )
    doubtful = _doubtful(probes, without, settings)
    with_ = replay(parts, doubtful.values(), model, withheld=(), occasion=key, label="probe with memory")
    found = [_judged(memory.id, probes.get(memory.id), without, with_, settings) for memory in memories]
    usage = sum((t.usage for t in (*without.values(), *with_.values())), Usage(usd=0.0))
    decided = [_vetoed(parts, candidate, memory, each) for memory, each in zip(memories, found, strict=True)]
    failed = {each.memory_id for each in found if not each.is_retired} & {memory.id for memory in may_leave}
    if not (failed and settings.probes and settings.alpha):
        return decided, usage, Together()
    leave = {each.memory_id for each in decided if each.is_retired}
    left, more = together(
        parts, key, candidate, list(everything.values()), stay=failed, leave=leave, held=withheld
    )
    if left.is_harmful:
        pairs = zip(memories, decided, strict=True)
        decided = [
            _vetoed(parts, candidate, memory, _following(each, left)) if memory.id in failed else each
            for memory, each in pairs
        ]
    return decided, usage + more, left


def _following(found: Certificate, left: Together) -> Certificate:
    """Let a memory that failed its certificate leave with the others that did."""
    counts = f"{left.done_with} of {left.n} requests done with it, {left.done_without} without"
    reason = f"{found.reason}; what stays harms: {counts} (p {left.p_value:.2g})"
    return found.model_copy(update={"is_retired": True, "as_whole": True, "reason": reason})


def _doubtful(
    probes: Mapping[str, Sequence[Task]], without: Mapping[TaskKey, Trajectory], settings: RetireSettings
) -> dict[TaskKey, Task]:
    """Return the requests that failed, of memories that may pass all the same."""
    found: dict[TaskKey, Task] = {}
    for tasks in probes.values():
        failed = [task for task in tasks if not without[key_of(task)].success]
        if tasks and len(tasks) - len(failed) >= settings.min_done * len(tasks):
            found |= {key_of(task): task for task in failed}
    return found


def _judged(
    memory_id: str,
    tasks: Sequence[Task] | None,
    without: Mapping[TaskKey, Trajectory],
    with_: Mapping[TaskKey, Trajectory],
    settings: RetireSettings,
) -> Certificate:
    if tasks is None and settings.probes:
        said = "it was measured to belong into the context too"
        return Certificate(memory_id=memory_id, is_retired=False, reason=said)
    if not tasks:
        return Certificate(memory_id=memory_id, is_retired=False, reason="no request to replay it on")
    n = len(tasks)
    done = sum(without[key_of(task)].success for task in tasks)
    failed = [key_of(task) for task in tasks if not without[key_of(task)].success]
    lost = sum(with_[key].success for key in failed if key in with_)
    passed = done >= settings.min_done * n and lost <= settings.max_lost * n
    said = f"without it {done} of {n} probes done" + (f", {lost} lost" if lost else "")
    return Certificate(memory_id=memory_id, is_retired=passed, n=n, done=done, lost=lost, reason=said)


def _vetoed(parts: Parts, candidate: str, memory: Memory, found: Certificate) -> Certificate:
    """Let plugins keep what passed."""
    if not found.is_retired:
        return found
    refusals = parts.hooks.refusals(hookspecs.retire_memory, memory=memory, checkpoint=candidate)
    if not refusals:
        return found
    who = ", ".join(f"`{name}`" for name in refusals)
    return found.model_copy(update={"is_retired": False, "reason": f"{found.reason}; kept by {who}"})


def _result(
    parts: Parts,
    candidate: str,
    found: Sequence[Certificate],
    evaluations: Sequence[Evaluation],
    usage: Usage,
    left: Together,
) -> StageResult:
    before, after = _note_tokens(parts, evaluations, candidate)
    counts = counts_of(found)
    saved = (sum(before) - sum(after)) / max(len(before), 1)
    return StageResult(
        f"{counts['retired']} of {len(found)} memories out of the context of `{candidate}`, "
        f"{saved:.0f} prompt tokens saved per task",
        {
            "checkpoint": candidate,
            **counts,
            "together": left.model_dump(mode="json"),
            "tokens_before": before,
            "tokens_after": after,
            "tokens_saved": saved,
            "certificates": [each.model_dump(mode="json") for each in found],
        },
        usage.model_dump(include={"prompt_tokens", "completion_tokens", "usd"}, exclude_none=True),
    )


def counts_of(found: Sequence[Certificate]) -> dict[str, int]:
    """Return how many memories stay and leave, and for which of the reasons."""
    n_retired = sum(each.is_retired for each in found)
    return {
        "compiled": len(found) - n_retired,
        "retired": n_retired,
        "without_probes": sum(not each.n for each in found),
        "failed": sum(bool(each.n) and not each.is_retired for each in found),
        "as_whole": sum(each.as_whole and each.is_retired for each in found),
    }


def _note_tokens(
    parts: Parts, evaluations: Sequence[Evaluation], candidate: str
) -> tuple[list[int], list[int]]:
    """Return the student's tokens of the recalled notes of each held-out request, before and after."""
    from agentkd import hf

    tasks = _held_out(parts, evaluations)
    if not tasks:
        return [], []
    tokenizer = hf.load_tokenizer(parts.student_files.path)
    scope = parts.settings.memory.scope.of_suite(tasks[0].suite)

    def tokens(checkpoint: str) -> list[int]:
        hits = parts.memory.recall_many([task.prompt for task in tasks], scope=scope, checkpoint=checkpoint)
        texts = [parts.memory.render(each) for each in hits]
        return [len(tokenizer.encode(text, add_special_tokens=False)) if text else 0 for text in texts]

    return tokens("base"), tokens(candidate)


def _held_out(parts: Parts, evaluations: Sequence[Evaluation]) -> Sequence[Task]:
    """Return the tasks that decided; where nothing was evaluated, those that would."""
    settings, cycle = parts.settings.evaluate, parts.settings.cycle
    if evaluations:
        decided = evaluations[0]
        wanted = {result.task_id for arm in decided.arms[:1] for result in arm.results}
        return [task for task in parts.suite(decided.suite).tasks(decided.split) if task.id in wanted]
    return parts.suite(cycle.suite).tasks(settings.split, settings.n, cycle.seed) if cycle.suite else ()
