"""The closed teaching loop: are tailored items worth more than as many random ones?

    python benchmarks/teaching.py                # 5 seeds x 2 arms x 3 rounds; goes on where it stopped
    python benchmarks/teaching.py --small        # one seed, two rounds, measured on a part of `train`
    python benchmarks/teaching.py --publish      # publish the cells that are there

SmolLM2-135M-Instruct learns real requests of bfcl-live, which has 26 tools. A seed cuts the training split by
near-duplicate group: `train` (ground truth, of one half of the tools alone), `exam` (assessments) and a pool
that only the teacher knows, both of all tools. So something is missing: a student that is trained on the
ground truth has never seen half of what it will be asked for, as happens where traces cover a part of the
work. From there both arms start. In each of three rounds the phase `synthesize` assesses the student, asks
the teacher for items and checks them, and the student goes on training from its adapter on the ground truth
and the new items.

The teacher is a script, and an honest one: it may only hand out items of its pool, real requests with their
accepted calls, which a real teacher would have to write; it knows neither the exam nor the holdout. Asked for
`tailored` items it reads the prompt (the wrong answer and the accepted one, chosen by the student report) and
picks unused items near the mistake; asked for `random` ones it draws unused items from the same pool. Both
arms get as many items, trainings and steps. So the figures say what choosing by the report is worth, not how
well a model writes.

Final figures: `holdout`, read once per arm at the end; settings were chosen on `check`, a part of `train`.
Finished arms lie in `results/cells/teaching`: any machine goes on from there.

Until November 2026 the ground truth was a dozen requests of any tools, of which the student could do nothing:
every item was as good as another one, and the figures said so (0.183 against 0.163, +0.020 [-0.041, 0.080],
n = 300). The control was weaker than it should have been, too: it trained on the items of its first round
three times.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import WORK, Row, above, children_cpu_seconds, kept, publish
from teaching_pool import PoolTeacher

import agentkd
from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.stage import compile_stage, run_stage, train_stage
from agentkd.cycle.synthesis import synthesize_stage
from agentkd.evaluate import find_leaks
from agentkd.evaluate.statistics import paired_bootstrap
from agentkd.files import write_whole
from agentkd.models.scripted import ScriptedModel
from agentkd.plugins import Component, NoSettings
from agentkd.protocols import Kit, Suite
from agentkd.schema import Synthetic, Task, ToolCall, Trajectory, content_id
from agentkd.synthesize import fault_of

SUITE, ARMS = "bfcl-fold", ("tailored", "random")
GROUND = "student@0-ground"


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rounds: int = 3
    n_ground: int = 48
    n_exam: int = 48
    n_items: int = 24
    n_final: int = 120
    final: str = "holdout"


SMALL = Plan(seeds=(100,), rounds=2, n_ground=24, n_exam=24, n_final=40, final="check")
TRAIN = {"epochs": 2, "learning_rate": 1e-3, "tokens_per_step": 256, "anchor": {"weight": 0.0}}


class Fold:
    """bfcl-live with its training split cut by group into `train`, `exam`, `check` and the teacher's pool."""

    name = SUITE

    def __init__(self, suite: Suite, plan: Plan, seed: int) -> None:
        self._suite = suite
        groups: dict[str, list[Task]] = defaultdict(list)
        for task in suite.tasks("train"):
            groups[task.group or task.id].append(task)
        tool = {name: self._tool(group[0]) for name, group in groups.items()}
        tools, order = sorted({*tool.values()}), sorted(groups)
        dice = random.Random(f"teaching-{seed}")
        self.known = frozenset(dice.sample(tools, len(tools) // 2))
        dice.shuffle(order)
        self._splits: dict[str, list[Task]] = {"exam": [], "train": [], "check": []}
        sizes = {"exam": plan.n_exam, "train": plan.n_ground}
        if plan.final == "check":
            sizes["check"] = plan.n_final
        self.pool: list[Task] = []
        for name in order:
            wanting = [
                split
                for split, n in sizes.items()
                if len(self._splits[split]) + len(groups[name]) <= n
                and (split != "train" or tool[name] in self.known)
            ]
            target = self._splits[wanting[0]] if wanting and len(groups[name]) <= 3 else self.pool
            target.extend(groups[name])
        self._splits["holdout"] = list(suite.tasks("holdout"))

    def _tool(self, task: Task) -> str:
        """Return the tool that a request asks for."""
        asked = Trajectory(id="asked", run_id="pool", task=task)
        return str(self._suite.grade(asked).expected[0].name)

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split; the pool is none of them."""
        return {name: len(tasks) for name, tasks in self._splits.items() if tasks}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split, or the first `n` of a seeded shuffle."""
        found = [task.model_copy(update={"suite": SUITE, "split": split}) for task in self._splits[split]]
        if n is not None and n < len(found):
            random.Random(seed).shuffle(found)
        return found[:n]

    def environment(self, task: Task) -> Any:
        """Make the world of a task."""
        return self._suite.environment(task)

    def grade(self, trajectory: Trajectory) -> Any:
        """Judge a trajectory."""
        return self._suite.grade(trajectory)

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Any]:
        """Return nothing: the arms are compared with each other."""
        return ()

    def lessons(self) -> list[tuple[str, ToolCall]]:
        """Return the pool with its accepted calls, without what is no item or would be taken for a leak."""
        tools = tuple(self._suite.environment(self.pool[0]).tools)
        found = []
        for task in self.pool:
            outcome = self._suite.grade(Trajectory(id="asked", run_id="pool", task=task))
            call = outcome.expected[0]
            item = Synthetic(
                synthesizer="pool", teacher="pool", seed="", prompt=task.prompt, tools=tools, calls=(call,)
            )
            if not fault_of(item) and not task.system:
                found.append((task.prompt, call))
        held = {t.id: t.prompt for split in ("holdout", "check") for t in self._splits[split]}
        rows = {str(i): [prompt] for i, (prompt, _) in enumerate(found)}
        while leaks := {leak.row_id for leak in find_leaks(held, rows.items).leaks}:
            rows = {key: texts for key, texts in rows.items() if key not in leaks}
        return [found[int(key)] for key in rows]


@dataclass
class Cell:
    """What one (seed, arm) gave."""

    seed: int
    arm: str
    key: str
    tasks: list[str]
    success: list[float]
    exams: list[float]
    items: list[int]
    rows: list[int]
    teacher_tokens: float
    tools: dict[str, int]
    cpu_seconds: float


@dataclass(frozen=True)
class Bench:
    """One seed: both arms start from a copy of the same workspace."""

    plan: Plan
    seed: int
    folder: Path
    """Of the workspaces."""
    cells: Path
    """Folder of what is finished."""

    def workspace(self, arm: str) -> agentkd.Workspace:
        """Open the workspace of an arm, with the fold as its suite and the pool as its teacher."""
        from agentkd_bfcl import SUGGESTED

        root = self.folder / f"{self.seed}-{arm}"
        plan, seed, log = self.plan, self.seed, root / "synthetic" / "answers.jsonl"
        fold: list[Fold] = []

        class Plugin:
            @agentkd.hookimpl
            def components(self) -> Iterator[Component[Any]]:
                yield Component("suite", SUITE, "A fold.", lambda settings, kit: fold_of(kit), NoSettings)
                yield Component("model", "pool", "A teacher.", lambda settings, kit: pool(kit), NoSettings)

        def fold_of(kit: Kit) -> Fold:
            if not fold:
                fold.append(Fold(kit.suite("bfcl-live"), plan, seed))
            return fold[0]

        def pool(kit: Kit) -> ScriptedModel:
            teacher = PoolTeacher(fold_of(kit).lessons(), log, seed)
            return ScriptedModel(teacher, name="pool-teacher")

        share = plan.n_items / (plan.n_items + plan.n_ground)  # the newest items, beside all ground truth
        ask = {"per_question": 2, "workers": 1}
        settings = {
            "roles": {"teacher": "pool"},
            "agent": {**SUGGESTED["agent"], "recall": "off"},
            "memory": {"embedder": "hashing", "index": "exact"},
            "cycle": {"suite": SUITE, "split": "train", "seed": seed},
            "compile": {"dev_share": 0.0},
            "synthesize": {
                "synthesizers": [arm if arm in ARMS else "random"], "split": "exam", "n": None,
                "max_items": plan.n_items, "max_share": share, "max_copy": 1.0,
            },
            "synthesizer": {"tailored": ask, "random": ask},
            "train": {**TRAIN, "seed": seed},
        }  # fmt: skip
        return agentkd.Workspace(root, settings=settings, plugins=[Plugin()])

    def ground(self) -> None:
        """Train a student on the ground truth and let it sit its exam, once; both arms copy that."""
        with self.workspace("ground") as workspace:
            suite = workspace.parts.suite(SUITE)
            run_stage(
                workspace.parts, suite=suite, tasks=suite.tasks("train"), run_id="ground", model="base",
                uses_memory=False, label="ground", has_trials=False,
            )  # fmt: skip
            parts = workspace.parts
            card = compile_stage(parts, suite=SUITE, split="train")
            train_stage(parts, card.id, GROUND)
            parts.ledger.checkpoints.promote(GROUND, force=True)
            workspace.assess()

    def cell(self, arm: str) -> Cell:
        """Return the cell of an arm, made where it is not there yet."""
        file = self.cells / f"{self.seed}-{arm}.json"
        key = content_id("cell", asdict(self.plan), TRAIN)
        if file.is_file():
            cell = Cell(**json.loads(file.read_text(encoding="utf-8")))
            if cell.key == key:
                return cell
        self.ground()
        root = self.folder / f"{self.seed}-{arm}"
        if not root.is_dir():
            shutil.copytree(self.folder / f"{self.seed}-ground", root)
        used = time.process_time() + children_cpu_seconds()
        cell = Cell(self.seed, arm, key, [], [], [], [], [], 0.0, {}, 0.0)
        with self.workspace(arm) as workspace:
            name = GROUND
            for number in range(1, self.plan.rounds + 1):
                name = self._round(workspace, cell, number, name)
            suite = workspace.parts.suite(SUITE)
            final = evaluate_stage(
                workspace.parts, suite=suite, split=self.plan.final, n=self.plan.n_final, seed=self.seed,
                candidate=name, serving="base", arms=("student",),
            ).arm("student")  # fmt: skip
        cell.tasks = [result.task_id for result in final.results]
        cell.success = [float(result.success) for result in final.results]
        cell.cpu_seconds = time.process_time() + children_cpu_seconds() - used
        write_whole(file, json.dumps(asdict(cell)))
        return cell

    def _round(self, workspace: agentkd.Workspace, cell: Cell, number: int, before: str) -> str:
        """Assess, let the teacher write, compile and train on; return the new checkpoint.

        What serves is assessed. The random arm needs no exam of its own, for it ignores what the exam says:
        nothing of it is promoted, and it is asked on about the first exam. What was asked before is answered
        from the log.
        """
        parts = workspace.parts
        is_tailored = cell.arm == "tailored"
        n_asked = self.plan.n_items * (1 if is_tailored else number)
        made = synthesize_stage(parts, suite=SUITE, n_items=n_asked)
        report = parts.ledger.teaching.report(made.output["report"])
        cell.exams.append(report.success.value)
        cell.items.append(int(made.output["new"]))
        cell.teacher_tokens += made.usage["prompt_tokens"] + made.usage["completion_tokens"]
        card = compile_stage(parts, suite=SUITE, split="train")
        cell.rows.append(card.n_train)
        name = f"student@{number}-{card.id[-8:]}"
        train_stage(parts, card.id, name, before)
        if is_tailored:
            parts.ledger.checkpoints.promote(name, force=True)
        written = workspace.trajectories(split="synthetic")
        cell.tools = dict(Counter(t.steps[0].accepted_calls[0].name for t in written))
        print(
            f"seed {self.seed}, {cell.arm}, round {number}: exam {report.success.value:.3f}, "
            f"{cell.items[-1]} items, {card.n_train} rows",
            flush=True,
        )
        return name


def rows_of(cells: Mapping[tuple[int, str], Cell], plan: Plan, has_bars: bool) -> list[Row]:
    """Return the figures: both arms, their paired difference, exams and costs."""
    seeds = sorted({seed for seed, _ in cells if all((seed, arm) in cells for arm in ARMS)})
    rows: list[Row] = []
    if not seeds:
        return rows
    n = sum(len(cells[seed, "tailored"].success) for seed in seeds)
    for arm in ARMS:
        done = [value for seed in seeds for value in cells[seed, arm].success]
        rows.append(Row(f"{plan.final}: {arm}, whole call right ({len(seeds)} seeds)", sum(done) / n, n=n))
    by_task: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        ours, other = cells[seed, "tailored"], cells[seed, "random"]
        for task, a, b in zip(ours.tasks, ours.success, other.success, strict=True):
            by_task[task].append(a - b)
    value, low, high = _clustered(by_task)
    title = f"{plan.final}: tailored minus random, paired ({len(seeds)} seeds)"
    if has_bars:
        rows.append(above(title, value, low, 0.0, high=high, n=n))
    else:
        rows.append(Row(title, value, low=low, high=high, n=n))
    per_seed = [
        _mean(cells[seed, "tailored"].success) - _mean(cells[seed, "random"].success) for seed in seeds
    ]
    spread = paired_bootstrap(per_seed, [0.0] * len(per_seed))
    rows.append(
        Row("the same, drawn over seeds", spread.value, low=spread.low, high=spread.high, n=len(seeds))
    )
    for number in range(plan.rounds):
        exams = [cells[seed, "tailored"].exams[number] for seed in seeds]
        rows.append(Row(f"exam before round {number + 1}: tailored", _mean(exams), n=len(seeds)))
    for arm in ARMS:
        spent = [cells[seed, arm] for seed in seeds]
        rows.append(Row(f"{arm}: items per seed", _mean([float(sum(cell.items)) for cell in spent])))
        rows.append(Row(f"{arm}: teacher tokens per seed", _mean([cell.teacher_tokens for cell in spent])))
        rows.append(Row(f"{arm}: CPU seconds per seed", _mean([cell.cpu_seconds for cell in spent])))
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _clustered(by_task: Mapping[str, Sequence[float]]) -> tuple[float, float, float]:
    """Return mean and 95 % interval; a task that several seeds drew is drawn with all its differences."""
    tasks = sorted(by_task)
    generator = random.Random(0)
    means = []
    for _ in range(4000):
        drawn = [d for task in generator.choices(tasks, k=len(tasks)) for d in by_task[task]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    whole = [d for task in tasks for d in by_task[task]]
    return _mean(whole), means[100], means[3899]


def main() -> int:
    """Make what is missing and publish what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="under five minutes, without bars")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds; default 0 1 2 3 4")
    parser.add_argument("--publish", action="store_true", help="publish what is there and make nothing")
    options = parser.parse_args()
    plan = SMALL if options.small else Plan()
    name = "teaching-small" if options.small else "teaching"
    folder = WORK / name
    done = folder if options.small else kept(name)
    done.mkdir(parents=True, exist_ok=True)
    cells: dict[tuple[int, str], Cell] = {}
    for seed in options.seeds or plan.seeds:
        for arm in ARMS:
            file = done / f"{seed}-{arm}.json"
            if options.publish and not file.is_file():
                continue
            cell = Bench(plan, seed, folder, done).cell(arm)
            cells[seed, arm] = cell
            print(f"seed {seed}, {arm}: {plan.final} {_mean(cell.success):.3f}, {cell.cpu_seconds:.0f} CPU s")
    facts = {
        "student": "SmolLM2-135M-Instruct",
        "teacher": "a script that hands out real requests of a pool with their accepted calls",
        "plan": asdict(plan),
        "train": TRAIN,
        "intervals": "95 %, bootstrap over tasks, each with all its seeds; the next row over seeds",
        "cells": [
            {k: v for k, v in asdict(cell).items() if k not in ("tasks", "success")}
            for cell in cells.values()
        ],
    }
    return publish(name, rows_of(cells, plan, has_bars=not options.small), facts)


if __name__ == "__main__":
    raise SystemExit(main())
