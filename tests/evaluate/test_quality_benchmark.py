"""The arithmetic of `benchmarks/quality.py`: pooled differences, what is kept of a gain, and resuming."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quality import ARMS, PLANS, SEEDS, Bench, rows_of_suite
from quality_cells import (
    BASE,
    Cell,
    gained,
    gained_on,
    memory_effect,
    paired_cells,
    pooled,
    read_cell,
    retention,
    success_off,
    write_cell,
)
from quality_fold import Fold

from agentkd.schema import Outcome, Task, Trajectory

N = 40
TASKS = tuple(f"task-{number}" for number in range(N))


def scores(n_done: int) -> tuple[float, ...]:
    return tuple(float(number < n_done) for number in range(N))


def cell(arm: str, off: int, on: int, seed: int = 0, key: str = "k") -> Cell:
    return Cell("suite", seed, arm, key, TASKS, scores(off), scores(on))


def test_figures_are_pooled_over_tasks_and_seeds_against_the_base_of_the_same_seed() -> None:
    made = [cell(BASE, 4, 12), cell("sft", 20, 10), cell(BASE, 8, 16, 1), cell("sft", 20, 10, 1)]
    made.append(cell("sft", 9, 9, 2))
    cells = {(each.suite, each.seed, each.arm): each for each in made}
    pairs = paired_cells(cells, "suite", "sft")

    assert len(pairs) == 2  # the third seed has no base to compare with
    assert pooled(pairs, success_off).value == pytest.approx(0.5)
    assert pooled(pairs, gained).value == pytest.approx((16 + 12) / 80)
    assert pooled(pairs, gained_on).value == pytest.approx((6 + 2) / 80)
    assert pooled(pairs, memory_effect).value == pytest.approx(-0.25)
    assert pooled(pairs, gained).n == 80


def test_intervals_hold_the_value_and_shrink_with_what_does_not_vary() -> None:
    base = cell(BASE, 0, N)
    varied = pooled([(cell("sft", 20, 0), base)], gained)
    assert 0.3 < varied.low < varied.value < varied.high < 0.7
    certain = pooled([(cell("sft", N, 0), base)], gained)
    assert (certain.low, certain.value, certain.high) == (1.0, 1.0, 1.0)


def test_a_task_of_two_seeds_is_drawn_as_a_whole() -> None:
    one = pooled([(cell("sft", 20, 0), cell(BASE, 0, 0))], gained)
    twice = pooled([(cell("sft", 20, 0, seed), cell(BASE, 0, 0, seed)) for seed in (0, 1)], gained)
    assert (twice.low, twice.high) == (one.low, one.high)  # the same results again are no new evidence
    assert twice.n == 2 * one.n


def test_what_is_kept_is_a_share_of_the_gain_of_memory() -> None:
    base = cell(BASE, 4, 24)
    assert retention([(cell("self-context", 24, 0), base)]).value == pytest.approx(1.0)
    kept = retention([(cell("self-context", 14, 0), base)])
    assert kept.value == pytest.approx(0.5)
    assert kept.low < 0.5 < kept.high < 1.0


def test_a_gain_that_is_not_there_is_never_kept_by_a_student_who_gained_nothing() -> None:
    assert retention([(cell("self-context", 4, 0), cell(BASE, 4, 4))]).value == float("-inf")
    assert retention([(cell("self-context", 9, 0), cell(BASE, 4, 4))]).value == float("inf")


def test_arms_on_different_tasks_are_refused() -> None:
    other = replace(cell("sft", 4, 4), tasks=TASKS[::-1])
    with pytest.raises(SystemExit, match="different tasks"):
        paired_cells({("suite", 0, BASE): cell(BASE, 1, 1), ("suite", 0, "sft"): other}, "suite", "sft")


def test_a_finished_cell_is_read_again_and_one_of_other_settings_is_not(tmp_path: Path) -> None:
    made = replace(cell("sft", 7, 9), valid=(1.0, 0.5), facts={"metrics": {"loss": 0.5}})
    write_cell(tmp_path, made)

    assert read_cell(tmp_path, "suite", 0, "sft", "k") == made
    assert read_cell(tmp_path, "suite", 0, "sft", "other settings") is None
    assert read_cell(tmp_path, "suite", 1, "sft", "k") is None
    assert [file.name for file in tmp_path.iterdir()] == ["suite-0-sft.json"]


@pytest.mark.parametrize(("with_memory", "holds"), [(4, True), (10, True), (14, False)])
def test_what_is_kept_is_judged_as_a_difference_and_as_a_share_only_of_a_gain(
    with_memory: int, holds: bool
) -> None:
    made = [
        each
        for seed in SEEDS
        for each in (cell(BASE, 4, with_memory, seed), cell("self-context", 10, 10, seed))
    ]
    cells = {(each.suite, each.seed, each.arm): replace(each, anchor=2.5) for each in made}
    rows = rows_of_suite(cells, "suite", has_bars=True)

    (left,) = [row for row in rows if "of the gain of memory" in row.metric]
    assert left.ours == pytest.approx((6 - 0.9 * (with_memory - 4)) / N)
    assert left.holds is holds
    shares = [row for row in rows if "that is kept" in row.metric]
    assert [row.holds for row in shares] == ([] if with_memory == 4 else [holds])
    assert all(abs(row.ours) < float("inf") for row in rows)


class Shop:
    """A suite of twenty tasks in ten groups, whose grader tells the answer."""

    name = "shop"

    def tasks(self, split: str) -> list[Task]:
        return [
            Task(id=f"t{n}", suite="shop", split=split, prompt=f"Find {n}.", group=f"g{n // 2}")
            for n in range(20)
        ]

    def grade(self, trajectory: Trajectory) -> Outcome:
        return Outcome(success=False, reward=0.0, grader="exact", expected_answer="42")


def test_the_dev_part_is_a_suite_of_its_own_that_tells_no_answer_of_what_it_measures() -> None:
    fold = Fold(Shop(), 6, seed=1)
    learnt, held = fold.tasks("train"), fold.tasks("holdout-dev")
    assert fold.splits() == {"train": 14, "holdout-dev": 6}
    assert {task.group for task in learnt}.isdisjoint(task.group for task in held)
    assert {task.suite for task in (*learnt, *held)} == {fold.name} == {"shop-dev"}
    told = [
        fold.grade(Trajectory(id="t", run_id="r", task=task)).expected_answer for task in (learnt[0], held[0])
    ]
    assert told == ["42", ""]


def test_a_workspace_of_the_dev_part_finds_it_by_name(tmp_path: Path) -> None:
    bench = Bench("bfcl-live", 100, PLANS["bfcl-live"], tmp_path, tmp_path, is_dev=True)
    with bench.workspace() as workspace:
        suite = bench.tasks_from(workspace)
        assert suite.name == "bfcl-live-dev"
        assert suite is workspace.parts.suite(suite.tasks("holdout-dev")[0].suite)


def test_what_is_tried_on_the_dev_part_outranks_what_an_arm_brings_along(tmp_path: Path) -> None:
    tried = ("train.learning_rate=3e-5", "train.anchor.weight=2", "train.lora.variant=rslora")
    bench = Bench("bfcl-live", 100, PLANS["bfcl-live"], tmp_path, tmp_path, is_dev=True, assignments=tried)
    with bench.workspace(ARMS["redi"]) as workspace:
        train = workspace.settings.train
        assert (train.learning_rate, train.anchor.weight, train.epochs) == (3e-5, 2.0, 1)
    with replace(bench, assignments=()).workspace(ARMS["redi"]) as workspace:
        assert (workspace.settings.train.learning_rate, workspace.settings.train.anchor.weight) == (1e-5, 1.0)
