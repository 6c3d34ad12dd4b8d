"""Five cycles in a row, each on another group of tasks: is anything forgotten, and do prompts get shorter?

    python benchmarks/continual.py             # five cycles; goes on where it stopped
    python benchmarks/continual.py --small     # two cycles on few tasks, under five minutes, without bars
    python benchmarks/continual.py --publish   # publish what is there

SmolLM2-135M-Instruct learns four topics of `bfcl-live` and then `llb-db`, one per cycle. Each cycle runs a
group's training tasks, distils, compiles, trains a student from the base on the union of all groups so far,
evaluates on the group's holdout and asks the gate. After each cycle what serves is measured on the holdout of
every group that was taught. The workspace in `.work/continual` is the record: what is there is not run again.

The gate asks for more than the base and than what serves, and for no loss on earlier groups. It does not ask
for more than base + memory: the claim is equal accuracy at a third of the tokens.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import continual_slices
from measure import WORK, Row, at_most, publish

from agentkd import Workspace
from agentkd.cli.progress import RichProgress
from agentkd.cycle.evaluation import evaluate_stage, run_key
from agentkd.evaluate import compare
from agentkd.evaluate.statistics import wilson
from agentkd.memory.status import RECALLED
from agentkd.schema import ArmResult, Value

SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"epochs": 3, "learning_rate": 1e-3, "tokens_per_step": 256, "anchor": {"weight": 1.0}},
    "agent": {"max_steps": 1, "force_tool_call": True, "tool_detail": "brief", "recall": "start"},
    "memory": {"k": 4, "min_score": 0.2},
    "models": {"max_new_tokens": 128},
    "distill": {"distillers": ["case"]},
    "compile": {"dev_share": 0.02},
    "gate": {"against": ["base"]},
}
"""Those that the suites suggest, alike for all groups; `[train]` as chosen for `quality.py` on the dev part
of bfcl-live's training split."""
N_TRAIN, N_EVAL = 64, 45
SMALL_GROUPS, SMALL_TRAIN, SMALL_EVAL = ("services", "music"), 12, 12
TOKENS_BAR, LEVEL = 1 / 3, 0.05


class Cell(Value):
    """How something did on a group after a cycle; one file in the folder of cells."""

    cycle: int
    """Number of the cycle after which it was measured."""
    group: str
    """The group."""
    kind: str
    """`alone` for what serves without memory, `served` for it with the memories left in its context,
    `recalled` for base + memory, `base`."""
    serving: str
    """What served."""
    arm: ArmResult
    """Its results, task by task."""
    in_context: float = 0.0
    """Memories in the prompt of a task, on average."""


@dataclass(frozen=True)
class Course:
    """The groups in their order, and how many tasks of each are run."""

    folder: Path
    groups: Sequence[str]
    n_train: int
    n_eval: int

    def workspace(self, group: str) -> Workspace:
        """Open the one workspace for a cycle on a group."""
        cycle = {"suite": group, "split": "train", "n": self.n_train, "min_new_memories": 1}
        settings = {**SETTINGS, "cycle": cycle, "evaluate": {"n": self.n_eval}}
        return Workspace(self.folder, settings=settings, plugins=[continual_slices], progress=RichProgress())

    def learn(self) -> None:
        """Run the cycles that are missing; after each, measure what serves on all groups taught so far."""
        for number, group in enumerate(self.groups, 1):
            with self.workspace(group) as workspace:
                if number not in {report.number for report in workspace.ledger.cycles.list("done")}:
                    workspace.cycle()
                for kind in ("base", "recalled"):
                    self.cell(workspace, number, group, kind)
                for earlier in self.groups[:number]:
                    self.cell(workspace, number, earlier, "alone")
                    if number == len(self.groups):
                        self.cell(workspace, number, earlier, "served")

    def cell(self, workspace: Workspace, number: int, group: str, kind: str) -> Cell:
        """Return a cell, measured where it is not there yet."""
        file = self.folder / "cells" / f"{number}-{group}-{kind}.json"
        if file.is_file():
            return Cell.model_validate_json(file.read_bytes())
        serving = workspace.report(number).serving if kind in ("alone", "served") else "base"
        uses_memory = kind in ("served", "recalled")
        who = "base" if serving == "base" else "student"
        arm, suite = f"{who} + memory" if uses_memory else who, workspace.parts.suite(group)
        evaluation = evaluate_stage(
            workspace.parts, suite=suite, split="holdout", n=self.n_eval, seed=0,
            candidate="" if serving == "base" else serving, serving="base", arms=(arm,),
        )  # fmt: skip
        model = "base" if serving == "base" else f"agentkd/{serving}"
        tasks = suite.tasks("holdout", self.n_eval)
        run_id = run_key(workspace.parts, "evaluate", suite.name, tasks, model, uses_memory, 0)
        shown = [len(t.recalled) for t in workspace.trajectories(run_id=run_id)]
        cell = Cell(
            cycle=number, group=group, kind=kind, serving=serving, arm=evaluation.arm(arm),
            in_context=sum(shown) / len(shown),
        )  # fmt: skip
        file.parent.mkdir(exist_ok=True)
        aside = file.with_suffix(".partial")
        aside.write_text(cell.model_dump_json(indent=1), encoding="utf-8")
        os.replace(aside, file)
        return cell

    def cells(self) -> dict[tuple[int, str, str], Cell]:
        """Return the cells that are there, by cycle, group and kind."""
        found = [Cell.model_validate_json(f.read_bytes()) for f in (self.folder / "cells").glob("*.json")]
        return {(cell.cycle, cell.group, cell.kind): cell for cell in found}

    def facts(self) -> dict[str, Any]:
        """Return what a reader must know to judge the figures: settings, verdicts, memories, costs."""
        cycles = {}
        with self.workspace(self.groups[0]) as workspace:
            for report in workspace.ledger.cycles.list("done"):
                phases = {phase.name: phase for phase in report.phases}
                statuses = workspace.ledger.memories.status_for(report.serving)
                cycles[report.suite] = {
                    "candidate": report.checkpoint,
                    "serving": report.serving,
                    "promoted": bool(report.verdict and report.verdict.promote),
                    "reasons": list(report.verdict.reasons) if report.verdict else [],
                    "flags": list(report.verdict.flags) if report.verdict else [],
                    "rows": phases["train"].summary if "train" in phases else "",
                    "memories": len(statuses),
                    "recallable for what serves": sum(status in RECALLED for status in statuses.values()),
                    "cpu_seconds": {phase.name: phase.cpu_seconds for phase in report.phases},
                }
        return {
            "actor": "SmolLM2-135M-Instruct",
            "groups": {name: i for i, name in enumerate(self.groups, 1)},
            "n_train": self.n_train,
            "n_eval": self.n_eval,
            "settings": SETTINGS,
            "cycles": cycles,
            "intervals": "95 %: Wilson for shares, paired bootstrap over tasks for differences; one seed",
        }


def matrix_rows(
    cells: Mapping[tuple[int, str, str], Cell], groups: Sequence[str], has_bars: bool
) -> list[Row]:
    """Return every cell of the transfer matrix, and the worst fall of each group since it was taught."""
    rows = []
    for number, group in enumerate(groups, 1):
        own = [
            cells[c, group, "alone"] for c in range(number, len(groups) + 1) if (c, group, "alone") in cells
        ]
        if (number, group, "base") in cells:
            rows.append(_share(f"{group}: base", cells[number, group, "base"].arm))
        if (number, group, "recalled") in cells:
            rows.append(_share(f"{group}: base + memory", cells[number, group, "recalled"].arm))
        rows.extend(_share(f"{group}: what serves after cycle {cell.cycle}", cell.arm) for cell in own)
        if len(own) < 2 or own[0].cycle != number:
            continue
        pairs = [compare(cell.arm, own[0].arm) for cell in own[1:]]
        worst = min(pairs, key=lambda pair: pair.difference.value)
        is_lost = any(pair.losses > pair.wins and pair.p_value < LEVEL for pair in pairs)
        bar = {"bar": f"no McNemar p < {LEVEL:g} below", "holds": not is_lost} if has_bars else {}
        metric = f"{group}: lowest later value minus that after its own cycle {number}"
        rows.append(_difference(metric, worst, bar))
    return rows


def memory_rows(
    cells: Mapping[tuple[int, str, str], Cell], groups: Sequence[str], has_bars: bool
) -> list[Row]:
    """Return accuracy, memories in context and tokens per task at the end, beside base + memory."""
    last, rows = len(groups), []
    ours = [cells[last, group, "served"] for group in groups if (last, group, "served") in cells]
    theirs = [
        cells[n, group, "recalled"] for n, group in enumerate(groups, 1) if (n, group, "recalled") in cells
    ]
    if len(ours) < last or len(theirs) < last:
        return []
    served, recalled = _pooled(ours), _pooled(theirs)
    rows = [_share("all groups: base + memory", recalled), _share("all groups: as served at the end", served)]
    pair = compare(served, recalled)
    bar = {"bar": "upper bound >= 0", "holds": pair.difference.high >= 0} if has_bars else {}
    rows.append(_difference("all groups: as served minus base + memory", pair, bar))
    peer = {"peer_name": "base + memory", "n": served.n}
    tokens = {"ours": served.prompt_tokens, "peer": recalled.prompt_tokens}
    rows.append(Row("prompt tokens per task, as served", **tokens, **peer))
    share = served.prompt_tokens / recalled.prompt_tokens
    metric = "prompt tokens per task, share of base + memory"
    rows.append(at_most(metric, share, TOKENS_BAR) if has_bars else Row(metric, share))
    shown = [sum(cell.in_context * cell.arm.n for cell in side) / served.n for side in (ours, theirs)]
    bar = {"bar": "fewer", "holds": shown[0] < shown[1]} if has_bars else {}
    rows.append(Row("memories in context per task, as served", shown[0], peer=shown[1], **peer, **bar))
    return rows


def _share(metric: str, arm: ArmResult) -> Row:
    return Row(metric, arm.success.value, low=arm.success.low, high=arm.success.high, n=arm.n)


def _difference(metric: str, pair: Any, bar: Mapping[str, Any]) -> Row:
    difference = pair.difference
    return Row(metric, difference.value, low=difference.low, high=difference.high, n=pair.n, **bar)


def _pooled(cells: Sequence[Cell]) -> ArmResult:
    """Return one arm over the tasks of all groups."""
    results = tuple(result for cell in cells for result in cell.arm.results)
    return cells[0].arm.model_copy(
        update={
            "n": len(results),
            "results": results,
            "success": wilson(sum(result.success for result in results), len(results)),
            "prompt_tokens": sum(result.prompt_tokens for result in results) / len(results),
        }
    )


def main() -> int:
    """Run what is missing and publish what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two cycles on few tasks, without bars")
    parser.add_argument("--publish", action="store_true", help="publish what is there and run nothing")
    options = parser.parse_args()
    name = "continual-small" if options.small else "continual"
    course = Course(WORK / name, continual_slices.GROUPS, N_TRAIN, N_EVAL)
    if options.small:
        course = Course(WORK / name, SMALL_GROUPS, SMALL_TRAIN, SMALL_EVAL)
    if not options.publish:
        course.learn()
    cells, has_bars = course.cells(), not options.small
    if not cells:
        raise SystemExit(f"there is no finished cell in `{course.folder}`")
    rows = matrix_rows(cells, course.groups, has_bars) + memory_rows(cells, course.groups, has_bars)
    return publish(name, rows, course.facts())


if __name__ == "__main__":
    raise SystemExit(main())
