"""The closed teaching loop: are tailored items worth more than as many random ones?

    python benchmarks/teaching.py                # 3 worlds x 5 seeds x 2 arms; goes on where it stopped
    python benchmarks/teaching.py --small        # the desk, one seed, two rounds, measured on `check`
    python benchmarks/teaching.py --dev          # how settings are chosen: three other seeds, on `check`
    python benchmarks/teaching.py --publish      # publish the cells that are there

SmolLM2-135M-Instruct is trained on ground truth that covers a part of what it will be asked for, as happens
with traces. From there both arms start. In each of three rounds the phase `synthesize` assesses the student,
asks the teacher for items and checks them (what is refused is asked for again), and the student is trained on
the ground truth and all items so far. Both arms get as many items, trainings and steps, so the figures say
what choosing by the report is worth, not how well a model writes.

The worlds, whose teachers are scripts that know neither the exam nor the held-out tasks:

    desk        Somebody with a habit for every kind of request, over real tools on SQLite. The ground truth
                covers six of nine habits, and the student has those soon. The teacher knows what is wanted,
                and writes requests for the habit that it is asked about; held-out tasks have other values.
                Every round trains from the base, in eight passes, on two items more. With twelve items in
                all, random ones reach most habits, too (seed 100, on `check`: 0.875 against 0.792).
    desk-half   The same with four habits covered and three items a round. Nine items over five missing habits
                were too few to show what choosing is worth (+0.008 [-0.042, 0.061]): hence `desk`.
    bfcl-live   26 tools. The ground truth covers half of them, and SmolLM2 does few of those either. The
                teacher may only hand out items of a pool, unused real requests with their accepted calls:
                for `tailored` items those near its mistake, else any.

Final figures: `holdout`, read once per arm; settings were chosen on `check`, a part of `train`. Finished arms
lie in `results/cells/teaching`: any machine goes on from there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentkd_bfcl import SUGGESTED
from measure import WORK, Row, children_cpu_seconds, kept, publish
from teaching_cells import ARMS, Cell, Plan, mean, rows_of
from teaching_desk import DeskSuite, DeskTeacher
from teaching_pool import Fold, PoolTeacher

import agentkd
from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.stage import compile_stage, run_stage, train_stage
from agentkd.cycle.synthesis import synthesize_stage
from agentkd.files import write_whole
from agentkd.models.scripted import ScriptedModel
from agentkd.plugins import Component, NoSettings
from agentkd.protocols import Kit, Suite
from agentkd.schema import content_id

GROUND = "student@0-ground"
TRAIN = {"tokens_per_step": 256, "anchor": {"weight": 0.0}}


@dataclass(frozen=True)
class World:
    """Where a student is taught: a suite, its teacher, and how much of both."""

    name: str
    plan: Plan
    small: Plan
    make: Callable[[str, Kit, Plan, int], Suite]
    """Makes the suite `(name, kit, plan, seed)`."""
    teacher: Callable[[Any, Path, int], Callable[..., str]]
    """Makes the teacher's script `(suite, log of its answers, seed)`."""
    agent: Mapping[str, Any]
    """The table `[agent]`."""
    train: Mapping[str, Any]
    """The table `[train]`, less what all worlds share."""
    goes_on: bool
    """Whether a round goes on from the adapter of the one before; else it starts at the base on all rows."""
    near_copy: float = 0.6
    """`[gate] near_copy`: at the desk a held-out task differs from an item by its values alone."""
    edition: tuple[int, ...] = ()
    """Raised where settings outside the plan change: older cells are published as such and made anew."""


def _fold(name: str, kit: Kit, plan: Plan, seed: int) -> Suite:
    return Fold(name, kit.suite("bfcl-live"), seed, **plan.sizes())


def _desk(name: str, kit: Kit, plan: Plan, seed: int) -> Suite:
    return DeskSuite(name, seed, n_known=plan.n_known, **plan.sizes())


_DESK: dict[str, Any] = {
    "make": _desk,
    "teacher": lambda suite, log, seed: DeskTeacher(log, seed),
    "agent": {"max_steps": 1, "force_tool_call": True, "tool_detail": "brief"},
    "train": {"epochs": 8, "learning_rate": 5e-4},
    "goes_on": False,
    "near_copy": 1.0,
}
WORLDS = {
    world.name: world
    for world in (
        World(
            "desk", Plan(36, 27, 2, 72, (20, 21, 22, 23, 24), n_known=6),
            Plan(36, 27, 2, 36, (100,), 2, "check", 6), **_DESK,
        ),
        World(
            "desk-half", Plan(24, 27, 3, 72, (10, 11, 12, 13, 14)), Plan(24, 27, 3, 36, (100,), 2, "check"),
            **_DESK,
        ),
        World(
            "bfcl-live", Plan(48, 48, 24, 120), Plan(24, 24, 24, 40, (100,), 2, "check"), _fold,
            lambda suite, log, seed: PoolTeacher(suite.lessons(), log, seed),
            SUGGESTED["agent"], {"epochs": 2, "learning_rate": 1e-3}, True, edition=(2,),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """One seed: both arms start from a copy of the same workspace."""

    world: World
    plan: Plan
    seed: int
    folder: Path
    """Of the workspaces."""
    cells: Path
    """Folder of what is finished."""

    @property
    def suite(self) -> str:
        """Name of the suite in the workspaces."""
        return f"teaching-{self.world.name}"

    def workspace(self, arm: str) -> agentkd.Workspace:
        """Open the workspace of an arm, with the world's suite and its teacher."""
        root = self._root(arm)
        world, plan, seed, log = self.world, self.plan, self.seed, root / "synthetic" / "answers.jsonl"
        name, made = self.suite, list[Suite]()

        class Plugin:
            @agentkd.hookimpl
            def components(self) -> Iterator[Component[Any]]:
                yield Component("suite", name, "A world.", lambda settings, kit: suite(kit), NoSettings)
                yield Component("model", "script", "A teacher.", lambda settings, kit: model(kit), NoSettings)

        def suite(kit: Kit) -> Suite:
            if not made:
                made.append(world.make(name, kit, plan, seed))
            return made[0]

        def model(kit: Kit) -> ScriptedModel:
            return ScriptedModel(world.teacher(suite(kit), log, seed), name="scripted-teacher")

        n_all = plan.rounds * plan.n_items  # nothing that was taught is left out of a later round
        ask = {"per_question": 1, "workers": 1}
        settings = {
            "roles": {"teacher": "script"},
            "agent": {**world.agent, "recall": "off"},
            "memory": {"embedder": "hashing", "index": "exact"},
            "cycle": {"suite": name, "split": "train", "seed": seed},
            "compile": {"dev_share": 0.0},
            "synthesize": {
                "synthesizers": [arm if arm in ARMS else "random"], "split": "exam", "n": None,
                "max_items": plan.n_items, "max_share": n_all / (n_all + plan.n_ground), "max_copy": 1.0,
            },
            "gate": {"near_copy": world.near_copy},
            "synthesizer": {"tailored": ask, "random": ask},
            "train": {**TRAIN, **world.train, "seed": seed},
        }  # fmt: skip
        return agentkd.Workspace(root, settings=settings, plugins=[Plugin()])

    @property
    def key(self) -> str:
        """Hash of the settings that a cell is made under."""
        return content_id(
            "cell", asdict(self.plan), TRAIN, dict(self.world.train), self.world.goes_on, *self.world.edition
        )

    def kept(self, arm: str) -> Cell | None:
        """Return the cell of an arm that is there, under whatever settings it was made."""
        file = self._file(arm)
        return Cell(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def _file(self, arm: str) -> Path:
        return self.cells / f"{self.world.name}-{self.seed}-{arm}.json"

    def _root(self, arm: str) -> Path:
        return self.folder / f"{self.world.name}-{self.seed}-{arm}"

    def ground(self) -> None:
        """Train a student on the ground truth and let it sit its exam, once; both arms copy that."""
        with self.workspace("ground") as workspace:
            suite = workspace.parts.suite(self.suite)
            run_stage(
                workspace.parts, suite=suite, tasks=suite.tasks("train"), run_id="ground", model="base",
                uses_memory=False, label="ground", has_trials=False,
            )  # fmt: skip
            parts = workspace.parts
            card = compile_stage(parts, suite=self.suite, split="train")
            train_stage(parts, card.id, GROUND)
            parts.ledger.checkpoints.promote(GROUND, force=True)
            workspace.assess()

    def cell(self, arm: str) -> Cell:
        """Return the cell of an arm, made where it is not there yet."""
        cell = self.kept(arm)
        if cell is not None and cell.key == self.key:
            return cell
        self.ground()
        if not self._root(arm).is_dir():
            shutil.copytree(self._root("ground"), self._root(arm))
        used = time.process_time() + children_cpu_seconds()
        cell = Cell(self.world.name, self.seed, arm, self.key, [], [], [], [], [], 0.0, {}, 0.0)
        with self.workspace(arm) as workspace:
            name = GROUND
            for number in range(1, self.plan.rounds + 1):
                name = self._round(workspace, cell, number, name)
            suite = workspace.parts.suite(self.suite)
            final = evaluate_stage(
                workspace.parts, suite=suite, split=self.plan.final, n=self.plan.n_final, seed=self.seed,
                candidate=name, serving="base", arms=("student",),
            ).arm("student")  # fmt: skip
        cell.tasks = [result.task_id for result in final.results]
        cell.success = [float(result.success) for result in final.results]
        cell.cpu_seconds = time.process_time() + children_cpu_seconds() - used
        write_whole(self._file(arm), json.dumps(asdict(cell)))
        return cell

    def _round(self, workspace: agentkd.Workspace, cell: Cell, number: int, before: str) -> str:
        """Assess, let the teacher write, compile and train on; return the new checkpoint.

        What serves is assessed. The random arm needs no exam of its own, for it ignores what the exam says:
        nothing of it is promoted, and it is asked on about the first exam. What was asked before is answered
        from the log.
        """
        parts = workspace.parts
        is_tailored = cell.arm == "tailored"
        n_asked = 0 if is_tailored else cell.n_asked
        missing = self.plan.n_items
        while missing:
            n_asked += missing
            made = synthesize_stage(parts, suite=self.suite, n_items=n_asked)
            if not made.output["new"] and n_asked > 8 * self.plan.n_items * number:
                break  # the teacher has no more to say: the figures show how many items there were
            missing -= int(made.output["new"])
            cell.teacher_tokens += made.usage["prompt_tokens"] + made.usage["completion_tokens"]
        cell.n_asked = n_asked
        report = parts.ledger.teaching.report(made.output["report"])
        cell.exams.append(report.success.value)
        cell.items.append(self.plan.n_items - missing)
        card = compile_stage(parts, suite=self.suite, split="train")
        cell.rows.append(card.n_train)
        name = f"student@{number}-{card.id[-8:]}"
        train_stage(parts, card.id, name, before if self.world.goes_on else "")
        if is_tailored:
            parts.ledger.checkpoints.promote(name, force=True)
        written = workspace.trajectories(split="synthetic")
        cell.tools = dict(Counter(t.steps[0].accepted_calls[0].name for t in written))
        print(
            f"{self.world.name}, seed {self.seed}, {cell.arm}, round {number}: "
            f"exam {report.success.value:.3f}, {cell.items[-1]} items, {card.n_train} rows",
            flush=True,
        )
        return name


def main() -> int:
    """Make what is missing and publish what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="under five minutes, without bars")
    parser.add_argument("--dev", action="store_true", help="choose settings: three other seeds, on `check`")
    parser.add_argument("--world", nargs="+", choices=list(WORLDS), help="worlds; default all")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds; default those of the world")
    parser.add_argument("--publish", action="store_true", help="publish what is there and make nothing")
    options = parser.parse_args()
    name = "teaching" + ("-small" if options.small else "-dev" if options.dev else "")
    done = kept(name) if name == "teaching" else WORK / name
    done.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    cells: list[Cell] = []
    plans = {}
    for world in (WORLDS[each] for each in options.world or (["desk"] if options.small else WORLDS)):
        plan = world.small if options.small else world.plan
        if options.dev:
            plan = replace(plan, n_final=min(72, plan.n_final), seeds=(100, 101, 102), final="check")
        found: dict[tuple[int, str], Cell] = {}
        is_old = False
        for seed in options.seeds or plan.seeds:
            bench = Bench(world, plan, seed, WORK / name, done)
            for arm in ARMS:
                cell = bench.kept(arm) if options.publish else bench.cell(arm)
                if cell is None:
                    continue
                found[seed, arm] = cell
                is_old = is_old or cell.key != bench.key
                print(
                    f"{world.name}, seed {seed}, {arm}: {plan.final} {mean(cell.success):.3f}, "
                    f"{cell.cpu_seconds:.0f} CPU s",
                    flush=True,
                )
        title = f"{world.name} (earlier settings)" if is_old else world.name
        rows += rows_of(found, title, plan, has_bars=name == "teaching")
        cells += found.values()
        plans[world.name] = asdict(plan)
    facts = {
        "student": "SmolLM2-135M-Instruct",
        "teachers": "scripts: one knows the people of the desk and writes, one hands out real requests",
        "plans": plans,
        "train": {name: {**TRAIN, **WORLDS[name].train, "goes_on": WORLDS[name].goes_on} for name in plans},
        "intervals": "95 %, bootstrap over tasks, each with all its seeds; the next row over seeds",
        "cells": [{k: v for k, v in asdict(cell).items() if k not in ("tasks", "success")} for cell in cells],
    }
    return publish(name, rows, facts)


if __name__ == "__main__":
    raise SystemExit(main())
