"""Every hook, in the order a cycle meets them.

Four ways to answer:

* **offer**: every plugin's answer is gathered (`components`, `commands`, `skills`, `find_secrets`,
  `rank_recalled`).
* **veto**: any False refuses and names the plugin; None is no opinion (`before_run`, `admit_memory`,
  `retire_memory`, `admit_example`, `judge_checkpoint`).
* **decide**: the first answer that is not None wins (`is_compile_due`).
* **notice**: the answer is ignored (`after_*`).

A plugin implements any of them with `@agentkd.hookimpl`, in a module or a class, and names only the
arguments that it wants. Hooks are called through the spec, `hooks.ask(hookspecs.after_run, ...)`, so
that a type checker sees every call, and an exception carries the plugin's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from agentkd.plugins import Component
    from agentkd.schema import (
        Correction,
        CycleReport,
        Evaluation,
        Example,
        Hit,
        Memory,
        PhaseReport,
        Step,
        Task,
        Trajectory,
    )

hookspec = pluggy.HookspecMarker("agentkd")
hookimpl = pluggy.HookimplMarker("agentkd")

__all__ = [
    "admit_example",
    "admit_memory",
    "after_correction",
    "after_cycle",
    "after_phase",
    "after_promote",
    "after_run",
    "after_step",
    "before_run",
    "commands",
    "components",
    "find_secrets",
    "hookimpl",
    "hookspec",
    "is_compile_due",
    "judge_checkpoint",
    "rank_recalled",
    "retire_memory",
    "skills",
]


@hookspec
def components() -> Iterable[Component[Any]]:
    """Offer components: models, suites, distillers, objectives and the rest.

    Called once when a workspace or the command line starts; must not import anything heavy.

    Example::

        @agentkd.hookimpl
        def components():
            yield agentkd.Component("suite", "chess", "Endgames with a tablebase.", build, ChessSettings)
    """
    raise NotImplementedError


@hookspec
def commands() -> Iterable[Any]:
    """Offer click commands that appear under `agentkd`.

    Example::

        @agentkd.hookimpl
        def commands():
            yield click.Command("hello", callback=lambda: click.echo("hi"))
    """
    raise NotImplementedError


@hookspec
def skills() -> Iterable[Path]:
    """Offer folders of Agent Skills (each holds `<name>/SKILL.md`).

    Example::

        @agentkd.hookimpl
        def skills():
            yield Path(__file__).parent / "skills"
    """
    raise NotImplementedError


@hookspec
def find_secrets(text: str) -> Iterable[tuple[int, int, str]]:
    """Offer (start, end, kind) of secrets and personal data in a text that is about to be stored.

    Called for every text that the core's own detectors have been through, before it reaches a disk for the
    first time: it has to be quick. `[redacted:KIND]` takes the place of what is found.

    Example::

        @agentkd.hookimpl
        def find_secrets(text):
            return [(m.start(), m.end(), "staff-number") for m in re.finditer(r"STAFF-\\d{6}", text)]
    """
    raise NotImplementedError


@hookspec
def before_run(task: Task, model: str) -> bool | None:
    """Veto a task before the agent starts on it; a refused task is recorded as cancelled.

    Example::

        @agentkd.hookimpl
        def before_run(task):
            return False if "credit card" in task.prompt else None
    """
    raise NotImplementedError


@hookspec
def rank_recalled(task: Task, hits: Sequence[Hit]) -> Sequence[Hit] | None:
    """Offer another order or a subset of what was recalled; answers are applied one after the other.

    Example::

        @agentkd.hookimpl
        def rank_recalled(hits):
            return [hit for hit in hits if hit.memory.kind != "fact"]
    """
    raise NotImplementedError


@hookspec
def after_step(trajectory: Trajectory, step: Step) -> None:
    """Notice one turn of the loop, after it was stored.

    Example::

        @agentkd.hookimpl
        def after_step(step):
            print(step.index, step.reply.content)
    """
    raise NotImplementedError


@hookspec
def after_run(trajectory: Trajectory) -> None:
    """Notice a finished trajectory, graded where a grader exists, after it was stored.

    Example::

        @agentkd.hookimpl
        def after_run(trajectory):
            print(trajectory.id, trajectory.success)
    """
    raise NotImplementedError


@hookspec
def after_correction(correction: Correction) -> None:
    """Notice a correction by a person, grader, judge or tool, after it was stored.

    Example::

        @agentkd.hookimpl
        def after_correction(correction):
            print(correction.text)
    """
    raise NotImplementedError


@hookspec
def admit_memory(memory: Memory) -> bool | None:
    """Veto a candidate memory before it becomes visible to recall.

    It is also asked about the new words of a refiner, before they take the place of a memory.

    Example::

        @agentkd.hookimpl
        def admit_memory(memory):
            return False if "password" in memory.content else None
    """
    raise NotImplementedError


@hookspec
def retire_memory(memory: Memory, checkpoint: str) -> bool | None:
    """Veto that a compiled memory leaves the context of `checkpoint`.

    Example::

        @agentkd.hookimpl
        def retire_memory(memory):
            return False if memory.kind == "fact" else None
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def is_compile_due(n_new_memories: int, n_new_trajectories: int, expected_gain: float) -> bool | None:
    """Decide whether it is time to compile and train; the first answer wins.

    Memories are new since the last compilation of the suite on the present base, trajectories since its last
    finished distillation; `expected_gain` is in tokens per task, weighed by measured lift. `agentkd cycle
    --if-due` asks before a cycle begins, and every cycle before it compiles. Whether a tainted student that
    serves is to be replaced is not asked.

    Example::

        @agentkd.hookimpl
        def is_compile_due(n_new_memories):
            return n_new_memories >= 500
    """
    raise NotImplementedError


@hookspec
def admit_example(example: Example) -> bool | None:
    """Veto a training row before it is written into a dataset.

    Example::

        @agentkd.hookimpl
        def admit_example(example):
            return False if example.group == "internal" else None
    """
    raise NotImplementedError


@hookspec
def judge_checkpoint(checkpoint: str, evaluation: Evaluation) -> bool | None:
    """Veto a promotion with the numbers at hand; True never overrules a failed check of the gate.

    Example::

        @agentkd.hookimpl
        def judge_checkpoint(evaluation):
            return evaluation.arm("student").seconds < 5.0
    """
    raise NotImplementedError


@hookspec
def after_promote(checkpoint: str, previous: str) -> None:
    """Notice that what serves has changed, by a promotion or a roll-back.

    Example::

        @agentkd.hookimpl
        def after_promote(checkpoint, previous):
            print(f"{previous} -> {checkpoint}")
    """
    raise NotImplementedError


@hookspec
def after_phase(report: PhaseReport) -> None:
    """Notice a finished phase of a cycle.

    Example::

        @agentkd.hookimpl
        def after_phase(report):
            print(report.name, report.seconds)
    """
    raise NotImplementedError


@hookspec
def after_cycle(report: CycleReport) -> None:
    """Notice a finished cycle, after its report was written.

    Example::

        @agentkd.hookimpl
        def after_cycle(report):
            print(report.serving)
    """
    raise NotImplementedError
