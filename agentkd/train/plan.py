"""The plan of a training: what it learns from and takes, and how this machine does it.

Choices that depend on the machine are made once per training and kept in `plan.json`, so that a resumed one
repeats them to the bit; other limits of memory (`max_memory`, `gradient_checkpointing`) and another number of
processes or threads make new choices and keep the saves.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from agentkd import hf
from agentkd.files import write_whole
from agentkd.schema import Advice, TrainJob, TrainPlan
from agentkd.train import finish
from agentkd.train.advisor import advise
from agentkd.train.artefact import row_key, signal_bytes
from agentkd.train.batch import Weighted
from agentkd.train.distributed import World, take_gpu
from agentkd.train.model import check_settings
from agentkd.train.packing import Pack, make_packs, plan_steps
from agentkd.train.planner import fit
from agentkd.train.prepare import build_objectives, check_job, useful_rows, with_mean_weights
from agentkd.train.reporter import Reporter
from agentkd.train.rows import Dataset, Row, View, load_dataset
from agentkd.train.second import beside
from agentkd.train.shape import Shape, shape_of
from agentkd.train.teacher import TeacherPlan, plan_teacher, signal_cache, wanted_top_k

__all__ = ["Lesson", "keep_plan", "lesson_of", "plan"]

_LEAST_LABELS_PER_STEP = 16


@dataclass(frozen=True)
class Lesson:
    """What a job learns from, before anything heavy is loaded."""

    dataset: Dataset
    """The dataset with the views that the teacher sees."""
    objectives: list[Weighted]
    """The losses."""
    teacher: TeacherPlan
    """Who teaches."""
    rows: tuple[Row, ...]
    """Rows that some objective learns from."""
    steps: tuple[tuple[int, ...], ...]
    """The rows of every step."""


def lesson_of(job: TrainJob, dataset: Dataset, reporter: Reporter, processes: int = 1) -> Lesson:
    """Build the objectives and lay the rows out in steps.

    Raises ConfigError or TrainError for what so many processes cannot train.
    """
    settings = job.settings
    objectives = build_objectives(job)
    check_job(job, objectives, processes)
    teacher, dataset = plan_teacher(job, dataset, objectives, reporter.say)
    rows = useful_rows(dataset, objectives, reporter.say)
    sizes = [row.n_tokens for row in rows]
    steps = plan_steps(
        sizes, epochs=settings.epochs, tokens_per_step=settings.tokens_per_step, seed=settings.seed
    )
    return Lesson(dataset, with_mean_weights(objectives, rows), teacher, rows, steps)


def plan(job: TrainJob, reporter: Reporter, *, processes: int = 1) -> TrainPlan:
    """Return what a job will take; starts nothing and writes nothing."""
    dataset = load_dataset(job.dataset, job.settings.max_tokens_per_row)
    return _plan(job, lesson_of(job, dataset, reporter, processes), processes)


def keep_plan(job: TrainJob, lesson: Lesson, work: Path, world: World) -> TrainPlan:
    """Return the plan of the training in `work`; rank 0 makes it where there is none for this job."""
    file, key = work / "plan.json", finish.job_key(job, lesson.dataset.card)
    limits = finish.limits_key(job, world.size)
    if world.is_main:
        kept = _read(file)
        if kept is None or kept[0] != key:
            shutil.rmtree(work, ignore_errors=True)  # left over from another job
            work.mkdir(parents=True)
        if kept is None or kept[:2] != (key, limits):
            made = _plan(job, lesson, world.size)
            text = {"key": key, "limits": limits, "plan": made.model_dump(mode="json")}
            write_whole(file, json.dumps(text, indent=1))
    world.wait()
    kept = _read(file)
    if kept is None:
        raise RuntimeError(f"`{file}` went away")
    return kept[2]


def _read(file: Path) -> tuple[str, str, TrainPlan] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept["key"], kept["limits"], TrainPlan.model_validate(kept["plan"])
    except (OSError, ValueError, KeyError, ValidationError):
        return None


def _plan(job: TrainJob, lesson: Lesson, processes: int) -> TrainPlan:
    begun = time.perf_counter()
    settings, rows, steps = job.settings, lesson.rows, lesson.steps
    device = hf.pick_device(settings.device)
    take_gpu(device)
    check_settings(settings, device)
    dtype = _compute_type(settings.dtype, device)
    config, shape = shape_of(job)
    has_pairs = any("rejected" in weighted.objective.requires for weighted in lesson.objectives)

    def packs(numbers: Sequence[int], max_tokens: int, max_pairs: int) -> Iterator[Pack]:
        return _packs([rows[number] for number in numbers], max_tokens, max_pairs, has_pairs)

    n_labels = sum(_n_labels(rows[number], has_pairs) for step in steps for number in step)
    views = [view for row in rows for view in (row.student, row.rejected if has_pairs else None) if view]
    signals = signal_bytes(wanted_top_k(lesson.objectives), (row.teacher for row in rows))
    cached, missing = _signals(job, lesson, dtype)
    others = beside(job, lesson.objectives, shape.n_base, is_missing=bool(missing))
    found = fit(
        job, shape, config, views, steps, packs, device=device, dtype=dtype, n_labels=n_labels,
        signals=signals, others=others, heaviest=_heaviest(rows, steps, has_pairs), processes=processes,
        objectives=lesson.objectives,
    )  # fmt: skip
    size = others.teacher / shape.n_base if others.teacher else 1.0
    n_tokens = sum(rows[number].n_tokens for step in steps for number in step)
    return TrainPlan(
        dataset_id=lesson.dataset.card.id,
        base_id=job.base_id,
        n_rows=len(rows),
        n_dev=len(lesson.dataset.dev),
        n_tokens=n_tokens,
        n_computed_tokens=found.load.n_computed,
        n_label_tokens=n_labels,
        n_steps=len(steps),
        n_parameters=shape.n_adapter,
        objectives={w.objective.name: tuple(sorted(w.objective.requires)) for w in lesson.objectives},
        teacher=(settings.teacher or "base") if wanted_top_k(lesson.objectives) else "",
        signals_cached=cached,
        signals_missing=len(missing),
        signals_seconds=sum(row.teacher.n_tokens for row in missing if row.teacher)
        * found.forward_seconds
        * size,
        device=device,
        dtype=dtype,
        threads=torch.get_num_threads(),
        processes=processes,
        pack_tokens=found.pack_tokens,
        pack_pairs=found.pack_pairs,
        chunk_tokens=found.chunk_tokens,
        recompute=found.recompute,
        memory_mib=round(found.memory_mib, 1),
        memory_limit_mib=round(found.limit_mib, 1),
        memory_parts={name: round(value, 1) for name, value in found.parts.items()},
        seconds=found.seconds / processes,
        probe_seconds=time.perf_counter() - begun,
        warnings=_warnings(job, lesson, n_labels, len(steps)),
        advice=_advice(job, lesson, shape, n_labels),
    )


def _compute_type(wanted: str, device: str) -> str:
    if wanted != "auto":
        return wanted
    return "bfloat16" if hf.fastest_dtype(device) == torch.bfloat16 else "float32"


def _packs(rows: Sequence[Row], max_tokens: int, max_pairs: int, has_pairs: bool) -> Iterator[Pack]:
    views: list[View] = []
    together: list[list[int]] = []
    for row in rows:
        found = [row.student] if row.student.labels else []
        if has_pairs and row.rejected is not None:
            found.append(row.rejected)
        together.append(list(range(len(views), len(views) + len(found))))
        views += found
    return make_packs(views, max_tokens, max_pairs, together)


def _heaviest(rows: Sequence[Row], steps: Sequence[Sequence[int]], has_pairs: bool) -> set[int]:
    """Return the trained rows with most tokens, most labels and most query-key pairs."""
    visited = sorted({number for step in steps for number in step})

    def n_pairs(number: int) -> int:
        return sum(view.n_tokens**2 for view in (rows[number].student, rows[number].rejected) if view)

    return {
        max(visited, key=lambda number: rows[number].n_tokens),
        max(visited, key=lambda number: _n_labels(rows[number], has_pairs)),
        max(visited, key=n_pairs),
    }


def _n_labels(row: Row, has_pairs: bool) -> int:
    rejected = row.rejected if has_pairs else None
    return len(row.student.labels) + (len(rejected.labels) if rejected is not None else 0)


def _signals(job: TrainJob, lesson: Lesson, dtype: str) -> tuple[int, list[Row]]:
    """Return how many rows have their teacher's signals on disk, and the rows that have not."""
    top_k = wanted_top_k(lesson.objectives)
    taught = {row_key(row.teacher): row for row in lesson.rows if row.teacher is not None}
    if not top_k or not taught:
        return 0, []
    template = lesson.teacher.template_hash or lesson.dataset.card.template_hash
    cache = signal_cache(job, template, top_k, lesson.teacher.unit, dtype=dtype)
    cached = taught.keys() & cache.keys()
    return len(cached), [row for key, row in taught.items() if key not in cached]


def _advice(job: TrainJob, lesson: Lesson, shape: Shape, n_labels: int) -> tuple[Advice, ...]:
    settings = job.settings
    return advise(
        settings,
        n_rows=len(lesson.rows),
        n_label_tokens=round(n_labels / max(settings.epochs, 1e-9)),
        n_steps=len(lesson.steps),
        n_base=shape.n_base,
        goes_on=bool(job.init_adapter),
    )


def _warnings(job: TrainJob, lesson: Lesson, n_labels: int, n_steps: int) -> tuple[str, ...]:
    found = []
    settings, plain = job.settings, type(job.settings.lora)()
    shape = settings.lora.model_copy(update={"dropout": plain.dropout})
    if job.init_adapter and shape != plain:
        found.append("going on from an adapter: `[train.lora]` shape, variant and init are its own")
    if n_labels / n_steps < _LEAST_LABELS_PER_STEP:
        found.append(f"only {n_labels / n_steps:.0f} trained tokens per step: the gradient is noise")
    if not lesson.dataset.dev:
        found.append("no dev rows: nothing shows when the student begins to learn by heart")
    if any(each.samples for each in lesson.objectives):
        found.append("the time in which the student answers for itself (`policy`) is not in these figures")
    if settings.epochs > 1 and n_steps < 4:
        found.append(f"only {n_steps} steps: the learning rate has hardly warmed up when it ends")
    said = {(row.student.ids, row.rejected.ids if row.rejected else ()) for row in lesson.rows}
    repeated = len(lesson.rows) - len(said)
    if repeated > 0.2 * len(lesson.rows):
        found.append(f"{repeated} of {len(lesson.rows)} rows repeat another one word for word")
    return tuple(found)
