"""What a training is made of before its first step: objectives, the rows they learn from, teacher signals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from agentkd.errors import ConfigError, TrainError
from agentkd.plugins import PluginHost
from agentkd.schema import TrainJob
from agentkd.train.batch import KNOWN_NEEDS, Weighted
from agentkd.train.feed import learns_from
from agentkd.train.lora import check_adapter
from agentkd.train.policy import check_sampling
from agentkd.train.reference import check_reference
from agentkd.train.rows import Dataset, Row

__all__ = ["build_objectives", "check_job", "check_processes", "useful_rows", "with_mean_weights"]

BUILT_IN = "agentkd.train.objectives"


def build_objectives(job: TrainJob) -> list[Weighted]:
    """Build the job's objectives; raises ConfigError for an unknown name, option or weight."""
    modules = [module for module in job.plugins if module != "agentkd.builtins"]
    registry = PluginHost(auto=False, modules=[BUILT_IN, *modules]).registry
    built = []
    for name, options in job.settings.objective.items():
        rest = {key: value for key, value in options.items() if key != "weight"}
        weight = options.get("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"`weight` of objective `{name}` must be a positive number, not {weight!r}")
        objective = registry.build("objective", name, rest, None)
        if hasattr(objective, "wrap"):  # around another loss, which may be a plugin's
            objective.wrap(registry.build("objective", objective.objective, objective.options, None))
        if unknown := sorted(objective.requires - KNOWN_NEEDS):
            raise TrainError(f"objective `{name}` requires {unknown}, which this trainer cannot give")
        built.append(Weighted(objective, float(weight), registry.get("objective", name).plugin))
    if not built:
        raise ConfigError("`[train.objective]` names no objective", hint="add `sft`")
    return built


def check_job(job: TrainJob, objectives: Sequence[Weighted], n_processes: int) -> None:
    """Refuse with ConfigError what no machine can train, before anything heavy is loaded."""
    settings = job.settings
    check_processes(objectives, n_processes)
    if settings.sharding == "fsdp" and n_processes == 1:
        raise ConfigError(
            '`[train] sharding = "fsdp"` needs several processes',
            hint="set `[trainer.lora] processes`, or start `torchrun -m agentkd.train spec.json`",
            key="train.sharding",
        )
    if not job.init_adapter:  # which has its own shape
        check_adapter(settings.lora)
    check_sampling(settings, objectives)
    for weighted in objectives:
        check_reference(weighted)


def check_processes(objectives: Sequence[Weighted], n_processes: int) -> None:
    """Refuse losses whose state gathers what their own chunks show where processes share the chunks."""
    for weighted in objectives:
        if n_processes > 1 and getattr(weighted.objective, "gathers_state", False):
            raise ConfigError(
                f"objective `{weighted.name}` learns from all chunks of a step, and {n_processes} processes "
                "would each see a part of them",
                hint="set `[trainer.lora] processes = 1`, or take a stateless loss such as `forward-kl`",
                key=f"train.objective.{weighted.name}",
            )


_REJECTED = "a rejected completion", "compile with corrections or failed runs, or train with `sft`"
_TEACHER = "a teacher view", "compile with memories that are recalled for the rows, or train with `sft`"
_TARGET = "a target to say", "compile with runs that succeeded or with corrections, or train without it"


def _lacking(weighted: Weighted) -> tuple[str, str]:
    """Return what an objective misses in rows from which it learns nothing, and the cure."""
    needs = weighted.objective.requires
    if "rejected" in needs:
        return _REJECTED
    return _TEACHER if weighted.needs_teacher or "teacher-spans" in needs else _TARGET


def useful_rows(
    dataset: Dataset, objectives: Sequence[Weighted], say: Callable[[str], None]
) -> tuple[Row, ...]:
    """Return the rows that some objective learns from, without completions that none asks for.

    Raises TrainError where an objective would learn nothing.
    """
    rows = dataset.train
    if not any("rejected" in weighted.objective.requires for weighted in objectives):
        rows = tuple(replace(row, rejected=None) if row.rejected else row for row in rows)
    for weighted in objectives:
        if not any(learns_from(weighted, row) for row in rows):
            lacking, cure = _lacking(weighted)
            raise TrainError(
                f"objective `{weighted.name}` needs rows with {lacking}, and the dataset has none", hint=cure
            )
    useful = tuple(row for row in rows if any(learns_from(weighted, row) for weighted in objectives))
    if len(useful) < len(rows):
        say(f"{len(rows) - len(useful)} rows from which no objective learns are left out")
    return useful


def with_mean_weights(objectives: Sequence[Weighted], rows: Sequence[Row]) -> list[Weighted]:
    """Return the objectives with the mean weight of what they learn from: of labels, or of pairs."""
    return [replace(each, mean_weight=_mean_weight(each, rows)) for each in objectives]


def _mean_weight(weighted: Weighted, rows: Sequence[Row]) -> float:
    """Return the mean over all labels with a weight; a pair weighs what the heaviest of its labels does."""
    found: list[float] = []
    for row in rows:
        if not learns_from(weighted, row):
            continue
        if "rejected" in weighted.objective.requires and row.rejected is not None:
            found.append(max(row.student.weights + row.rejected.weights))
        else:
            found += row.student.weights
    found = [weight for weight in found if weight > 0]
    return math.fsum(found) / len(found) if found else 1.0
