"""Evaluation of a cycle: every arm on the same held-out tasks; what was run already is found by its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkd.cycle.parts import ROUTED, Parts, checkpoint_of
from agentkd.cycle.probe import Withholding
from agentkd.cycle.routing import AdapterRouter
from agentkd.cycle.stage import run_stage
from agentkd.cycle.unlearnt import rival_of
from agentkd.errors import ConfigError, NotFoundError
from agentkd.protocols import Suite
from agentkd.schema import ArmResult, Evaluation, Memory, Task, Trajectory, content_id

__all__ = [
    "Arm",
    "arm_of",
    "arm_run_id",
    "arm_runs",
    "check_rivals",
    "evaluate_stage",
    "memory_snapshot",
    "recall_settings",
    "run_key",
    "with_facts",
]


@dataclass(frozen=True)
class Arm:
    """One row of an evaluation: a model with or without memory."""

    name: str
    model: str
    uses_memory: bool
    withheld: tuple[str, ...] = ()
    """Memories that are not recalled."""


def arm_of(name: str, candidate: str, serving: str) -> Arm | None:
    """Return the arm of a name; None where it needs a candidate or a serving student that is not there."""
    who, plus, memory = name.partition(" + ")
    model = {"base": "base", ROUTED: ROUTED, "student": candidate and f"agentkd/{candidate}",
             "serving": serving if serving == "base" else f"agentkd/{serving}"}.get(who)  # fmt: skip
    if model is None or (plus and memory != "memory"):
        raise ConfigError(
            f"unknown arm `{name}`", hint="arms are base, student, serving, routed, each with ` + memory`"
        )
    if not model or (who == "serving" and serving == "base"):
        return None
    return Arm(name, model, bool(plus))


def check_rivals(parts: Parts) -> None:
    """Raise ConfigError where the gate compares with an arm that is not evaluated: nothing could pass."""
    settings, cycle = parts.settings, parts.settings.cycle
    found = parts.serving()
    serving = found.name if found else "base"
    incumbent = "base" if rival_of(parts, serving) == "base" else "serving"
    arms = {*settings.evaluate.arms, "serving"} - {"student"}  # what serves is run in any case
    known = {name for name in arms if arm_of(name, "candidate", serving) is not None}
    missing = [name for name in (*settings.gate.against, incumbent) if name not in known]
    if missing:
        suite = parts.suite(cycle.suite)
        train = suite.tasks(cycle.split, cycle.n, cycle.seed)
        baselines = {baseline.name for baseline in suite.baselines(train, parts)}
        missing = [name for name in missing if name not in baselines]
    if missing:
        raise ConfigError(
            f"the gate compares with `{missing[0]}`, which is not evaluated: no candidate would pass",
            hint="name it in `evaluate.arms`, or leave it out of `gate.against`; what serves counts anyway",
            key="gate.against",
        )


def with_facts(parts: Parts, arm: Arm) -> Arm:
    """Return an arm without memory as its student serves; itself where the weights are all there is.

    A student that was trained to read its facts (`[compile] show_facts`) has them in its context wherever
    it serves: all that is recalled but what its rows taught.
    """
    from agentkd.cycle.retire import held_memories

    prefix, _, name = arm.model.partition("agentkd/")
    if arm.uses_memory or prefix or not name:
        return arm
    try:
        card = parts.ledger.datasets.get(parts.checkpoint(name).dataset_id)
    except NotFoundError:  # an adapter from elsewhere
        return arm
    if not card.settings.get("show_facts"):
        return arm
    taught = sorted(memory.id for memory in held_memories(parts, name))
    return replace(arm, uses_memory=True, withheld=tuple(taught))


def evaluate_stage(
    parts: Parts,
    *,
    suite: Suite,
    split: str,
    n: int | None,
    seed: int,
    candidate: str,
    serving: str,
    arms: Sequence[str] | None = None,
) -> Evaluation:
    """Run every arm (those of the settings, or `arms`) on the same held-out tasks; compare them pairwise."""
    from agentkd.evaluate import make_evaluation

    tasks = suite.tasks(split, n, seed)
    names = list(parts.settings.evaluate.arms if arms is None else arms)
    if serving != "base" and candidate and "serving" not in names:
        names.append("serving")
    found = [arm for name in names if (arm := arm_of(name, candidate, serving)) is not None]
    wanted = [with_facts(parts, arm) for arm in found]
    results = [_arm_result(parts, arm, suite, tasks, seed) for arm in wanted]
    baselines = _baseline_results(parts, suite, tasks, split) if arms is None else []
    evaluation = make_evaluation(
        suite=suite.name,
        split=split,
        arms=[*results, *baselines],
        candidate="student" if candidate else "",
        checkpoint=candidate,
        seed=seed,
        settings=parts.settings.evaluate,
    ).model_copy(update={"bootstrap": parts.settings.evaluate.bootstrap})
    parts.ledger.evaluations.add(evaluation)
    return evaluation


def run_key(
    parts: Parts, purpose: str, suite: str, tasks: Sequence[Task], model: str, uses_memory: bool, seed: int
) -> str:
    """Return the id of a run: what was cut off goes on under it; other tasks or settings are another run."""
    spec, settings = parts.resolve(model), parts.settings
    is_local = spec in ("base", ROUTED) or spec.startswith("agentkd/")
    checkpoint = checkpoint_of(spec)
    is_served = parts.role_model(model) == "student" and checkpoint != "base"
    is_tainted = is_served and parts.checkpoint(checkpoint).status == "tainted"
    if spec == ROUTED:
        spec = AdapterRouter(parts).id
    return content_id(
        "run", purpose, suite, tasks, spec, parts.student_files.base_id if is_local else "", settings.agent,
        settings.models.model_dump(include={"max_new_tokens", "temperature", "dtype"}), settings.model,
        (memory_snapshot(parts, checkpoint), *recall_settings(parts)) if uses_memory else "no memory", seed,
        *([settings.revoke.serving, parts.ledger.revocations.mark()] if is_tainted else []),
    )  # fmt: skip


def recall_settings(parts: Parts) -> list[Any]:
    """Return what a recall rests on: its settings, what counts as similar, the model of its stages."""
    settings = parts.settings
    similar = dict(parts.thresholds())  # `agentkd memory calibrate` changes them, and no setting
    return [settings.memory, similar, settings.embedder, settings.recaller, settings.roles.recaller]


def _arm_result(parts: Parts, arm: Arm, suite: Suite, tasks: Sequence[Task], seed: int) -> ArmResult:
    from agentkd.evaluate import arm_result

    trajectories = list(arm_runs(parts, arm, tasks, seed).values())
    model = ROUTED if arm.model == ROUTED else parts.model(arm.model).name
    summed = arm_result(
        arm.name, model, arm.uses_memory, tasks, trajectories, level=parts.settings.evaluate.level
    )
    return summed.model_copy(update={"run_id": trajectories[0].run_id if trajectories else ""})


def arm_run_id(parts: Parts, arm: Arm, suite: str, tasks: Sequence[Task], seed: int) -> str:
    """Return the id of an arm's run over held-out tasks."""
    run_id = run_key(parts, "evaluate", suite, tasks, arm.model, arm.uses_memory, seed)
    return content_id("run", run_id, list(arm.withheld)) if arm.withheld else run_id


def arm_runs(parts: Parts, arm: Arm, tasks: Sequence[Task], seed: int) -> dict[str, Trajectory]:
    """Run an arm over held-out tasks of one suite, unless that was done before; return its runs by task."""
    if not tasks:
        return {}
    suite = parts.suite(tasks[0].suite)
    run_id = arm_run_id(parts, arm, suite.name, tasks, seed)
    recaller = Withholding(parts.memory, arm.withheld) if arm.withheld else None
    run_stage(
        parts, suite=suite, tasks=tasks, run_id=run_id, model=arm.model, uses_memory=arm.uses_memory,
        label=arm.name, has_trials=False, recaller=recaller,
    )  # fmt: skip
    found = parts.ledger.trajectories.of_run(run_id)
    return {run.task.id: run for run in sorted(found, key=lambda run: run.attempt, reverse=True)}


def _baseline_results(parts: Parts, suite: Suite, tasks: Sequence[Task], split: str) -> list[ArmResult]:
    from agentkd.evaluate import baseline_result

    train = suite.tasks(parts.settings.cycle.split, parts.settings.cycle.n, parts.settings.cycle.seed)
    return [
        baseline_result(baseline, suite, tasks, level=parts.settings.evaluate.level)
        for baseline in suite.baselines(train, parts)
    ]


def memory_snapshot(parts: Parts, checkpoint: str = "base") -> str:
    """Return a hash of the memories that recall can see where `checkpoint` serves."""
    from agentkd.memory.status import RECALLED

    visible: list[Memory] = parts.ledger.memories.list(status=RECALLED, checkpoint=checkpoint)
    return content_id("snp", sorted(memory.id for memory in visible))
