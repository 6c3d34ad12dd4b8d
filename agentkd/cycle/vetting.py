"""Vets what a teacher wrote: no row without a schema, a tool or a grader for it, and no copy of a test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentkd.compiler.synthetic import SEED_TASK
from agentkd.cycle.parts import Parts
from agentkd.errors import CeilingError
from agentkd.hf import call_text
from agentkd.protocols import Suite
from agentkd.schema import (
    SYNTHETIC_SPLIT,
    Message,
    Origin,
    Outcome,
    Step,
    Synthetic,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    content_id,
    is_held_out,
)
from agentkd.trust import heard_after

__all__ = ["Vetted", "vet"]

Checked = Literal["grader", "tools", "schema"]


@dataclass
class Vetted:
    """What passed, as trajectories, and how many items did not, by reason."""

    trajectories: list[Trajectory] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def sift(self, items: Iterable[Synthetic], fault: Callable[[Synthetic], str]) -> list[Synthetic]:
        """Return the items without a fault; count the others."""
        kept = []
        for item in items:
            if reason := fault(item):
                self.refused[reason] += 1
            else:
                kept.append(item)
        return kept


def vet(parts: Parts, items: Sequence[Synthetic], seeds: Mapping[str, Trajectory], run_id: str) -> Vetted:
    """Check every item: by itself, for copies, against evaluation tasks, and in the world of its seed."""
    from agentkd.synthesize import fault_of

    vetted = Vetted()
    known = vetted.sift(items, lambda item: "" if item.seed in seeds else "a seed that was not given")
    sound = vetted.sift(known, fault_of)
    suites = sorted({seeds[item.seed].task.suite for item in sound} & set(parts.registry.names("suite")))
    worlds = {name: parts.suite(name) for name in suites}
    learnt = _learnt(parts, seeds, worlds)
    copies = _copies(parts, sound, learnt, worlds)
    fresh = vetted.sift(sound, lambda item: "a copy of a request" if item.id in copies else "")
    fresh = _once(vetted, fresh, parts.settings.synthesize.max_copy)
    leaks = _leaks(parts, fresh, list(learnt.values()), worlds)
    clean = vetted.sift(fresh, lambda item: "like an evaluation task" if item.id in leaks else "")
    for item in clean:
        seed = seeds[item.seed]
        checked, results, fault = _tried(item, seed, worlds.get(seed.task.suite))
        if fault:
            vetted.refused[fault] += 1
        else:
            vetted.trajectories.append(_trajectory(item, seed, checked, results, run_id))
    return vetted


def _once(vetted: Vetted, items: Iterable[Synthetic], limit: float) -> list[Synthetic]:
    """Leave out items that share a larger part of their words with an earlier one (Jaccard) than `limit`."""
    said: list[set[str]] = []

    def fault(item: Synthetic) -> str:
        words = set(re.findall(r"\w+", item.prompt.casefold()))
        if any(len(words & other) >= limit * len(words | other) for other in said):
            return "a copy of another item"
        said.append(words)
        return ""

    return vetted.sift(items, fault)


def _learnt(parts: Parts, seeds: Mapping[str, Trajectory], worlds: Mapping[str, Suite]) -> dict[str, str]:
    """Return the requests that are learnt from and those of the exam."""
    settings = parts.settings
    found = {seed.id: seed.task.prompt for seed in seeds.values()}
    for suite in worlds.values():
        for split in {settings.cycle.split, settings.synthesize.split} & set(suite.splits()):
            found |= {f"{split}/{task.id}": task.prompt for task in suite.tasks(split)}
    return found


def _copies(
    parts: Parts, items: Sequence[Synthetic], learnt: Mapping[str, str], worlds: Mapping[str, Suite]
) -> set[str]:
    """Return the items that copy a request that is learnt from, or what was written in an earlier phase."""
    from agentkd.evaluate import find_leaks

    rows = {id_: [prompt] for id_, prompt in learnt.items()}
    stored = [t for name in worlds for t in parts.ledger.trajectories.list(suite=name, split=SYNTHETIC_SPLIT)]
    there = {t.task.id for t in stored}
    rows |= {t.id: [t.task.prompt] for t in stored}
    asked = {item.id: item.prompt for item in items if not item.is_of_seed and item.id not in there}
    found = find_leaks(asked, rows.items, near=parts.settings.synthesize.max_copy)
    return set(found.tasks)


def _leaks(
    parts: Parts, items: Sequence[Synthetic], learnt: Sequence[str], worlds: Mapping[str, Suite]
) -> set[str]:
    """Return the items that give away a task of a held-out split or of one that `evaluate` looks at."""
    from agentkd.evaluate import find_leaks

    evaluate = parts.settings.evaluate
    tasks = {
        f"{name}/{task.id}": task.prompt
        for name, suite in worlds.items()
        for split in suite.splits()
        if is_held_out(split) or split in (evaluate.split, *evaluate.also)
        for task in suite.tasks(split)
    }
    left = {item.id: [item.prompt, item.answer] for item in items}
    while True:  # a task names the one row that is most like it: look again without that one
        leaks = find_leaks(tasks, left.items, near=parts.settings.gate.near_copy, background=learnt).leaks
        if not leaks:
            return {item.id for item in items} - left.keys()
        for leak in leaks:
            left.pop(leak.row_id, None)


def _tried(
    item: Synthetic, seed: Trajectory, suite: Suite | None
) -> tuple[Checked, tuple[ToolResult, ...], str]:
    """Make an item's calls in the world of its seed; what says the same as the seed is graded there."""
    has_proof = bool(item.proof or item.proof_answer)
    if suite is None:
        return "schema", (), "no grader to prove its answer" if has_proof else ""
    calls = item.proof or item.calls
    try:
        results = _made(suite, seed.task, calls) if calls else ()
        outcome = suite.grade(_replayed(seed, calls, results, item.proof_answer)) if has_proof else None
    except CeilingError:
        raise
    except Exception as error:  # the world of the seed's task broke: that proves nothing
        return "schema", (), f"its answer cannot be tried: {type(error).__name__}" if has_proof else ""
    if outcome is not None:
        return (
            "grader",
            results if item.calls else (),
            "" if outcome.success else "its answer is graded wrong",
        )
    if any(not result.ok for result in results):
        return "tools", results, "a tool refuses its call"
    return "tools" if results else "schema", results, ""


def _made(suite: Suite, task: Task, calls: Sequence[ToolCall]) -> tuple[ToolResult, ...]:
    environment = suite.environment(task)
    try:
        return tuple(environment.call(call) for call in calls)
    finally:
        environment.close()


def _replayed(
    seed: Trajectory, calls: Sequence[ToolCall], results: Sequence[ToolResult], answer: str
) -> Trajectory:
    steps = tuple(
        Step(
            index=index,
            reply=Message(role="assistant", tool_calls=(call,), origin="model"),
            accepted_calls=(call,),
            results=(result,),
        )
        for index, (call, result) in enumerate(zip(calls, results, strict=True))
    )
    if answer:
        said = Message(role="assistant", content=answer, origin="model")
        steps = (*steps, Step(index=len(steps), reply=said))
    made = {
        "model": "replay",
        "messages": (),
        "steps": steps,
        "answer": answer,
        "outcome": None,
        "failure": None,
    }
    return seed.model_copy(update=made)


def _trajectory(
    item: Synthetic, seed: Trajectory, checked: Checked, results: Sequence[ToolResult], run_id: str
) -> Trajectory:
    """Return an item as a trajectory that the compiler reads like any other.

    It has heard all that its seed's run heard, and it is a claim where that run was one.
    """
    task = Task(
        id=item.id,
        suite=seed.task.suite,
        split=SYNTHETIC_SPLIT,
        prompt=item.prompt,
        system=item.system,
        tools=item.tools,
        group=seed.task.group,
        extras={SEED_TASK: seed.task.id},
    )
    steps: list[Step] = []
    if item.calls:
        text = "\n".join(call_text(call) for call in item.calls)
        said = Message(role="assistant", content=text, tool_calls=item.calls, origin="model")
        steps.append(Step(index=0, reply=said, accepted_calls=item.calls, results=tuple(results)))
    if item.answer:
        said = Message(role="assistant", content=item.answer, origin="model")
        steps.append(Step(index=len(steps), reply=said))
    origin = Origin(
        synthesizer=item.synthesizer,
        teacher=item.teacher,
        report=item.report,
        seeds=(seed.id,),
        memories=item.memories,
        checked=checked,
    )
    return Trajectory(
        id=content_id("tra", "synthetic", item.id),
        run_id=run_id,
        task=task,
        scope=seed.scope,
        model=item.teacher,
        heard=heard_after(seed),
        steps=tuple(steps),
        answer=item.answer,
        outcome=Outcome(success=True, reward=1.0, grader=f"checked by {checked}"),
        imported_from=seed.imported_from,
        extras=origin.extras(),
    )
