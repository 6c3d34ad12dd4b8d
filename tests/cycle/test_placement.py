"""Weights or memory: the figures decide per cluster, and compile and retire follow the decision."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import agentkd
from agentkd.cli.root import run_command_line
from agentkd.compiler import read_examples
from agentkd.config import PlaceSettings
from agentkd.cycle.journal import Plan
from agentkd.cycle.placed import measured_places
from agentkd.cycle.placement import place_memories, place_phase
from agentkd.cycle.retire import retire_phase
from agentkd.errors import ConfigError
from agentkd.evaluate import Cell, Cluster, decide_place
from agentkd.schema import Interval, Option, Place, Placement, Verdict

FULL, NONE = (True,) * 40, (False,) * 40
HALF = (True, False) * 20
TRIED = (Option(place="weights", success=Interval(value=0.5, low=0.4, high=0.6)),)


def decided(
    cells: dict[Place, Sequence[bool]], *, training: float = 0.001, is_fact: bool = False, min_tasks: int = 20
) -> Placement:
    """Decide where reading the memories costs a second per task, and training `training` seconds."""
    shown = {"context", "both"}
    cluster = Cluster("a cluster", ("mem-1",), is_fact, token_price=0.01, training_price=training)
    ways = [
        Cell(place, done, [150.0 if place in shown else 50.0] * len(done)) for place, done in cells.items()
    ]
    return decide_place(cluster, ways, PlaceSettings(min_tasks=min_tasks))


@pytest.mark.parametrize(
    ("cells", "training", "place"),
    [
        ({"neither": NONE, "context": HALF, "weights": FULL, "both": FULL}, 0.001, "weights"),
        ({"neither": NONE, "context": FULL, "weights": NONE, "both": FULL}, 0.001, "context"),
        ({"neither": NONE, "context": FULL, "weights": FULL, "both": FULL}, 0.001, "weights"),
        ({"neither": NONE, "context": FULL, "weights": FULL, "both": FULL}, 5.0, "context"),
        ({"neither": NONE, "context": HALF, "weights": HALF, "both": FULL}, 0.001, "both"),
        ({"neither": FULL, "context": FULL, "weights": FULL, "both": FULL}, 0.001, "neither"),
    ],
)
def test_the_cheapest_place_that_is_not_credibly_worse_wins(
    cells: dict[Place, Sequence[bool]], training: float, place: Place
) -> None:
    found = decided(cells, training=training)
    assert (found.place, found.is_measured, found.n) == (place, True, 40)
    assert found.reason.endswith(f"best at least cost: {place}")


def test_facts_have_two_places_and_too_few_tasks_leave_it_to_the_kind() -> None:
    facts: dict[Place, Sequence[bool]] = {"neither": NONE, "context": FULL}
    assert decided(facts, is_fact=True).place == "context"
    assert decided({"neither": NONE[:9], "context": NONE[:9]}, is_fact=True).place == "context"
    few = decided({"neither": FULL[:9], "context": FULL[:9], "weights": FULL[:9], "both": FULL[:9]})
    assert (few.place, few.is_measured) == ("weights", False)


def test_costs_are_per_point_of_success_gained() -> None:
    found = decided({"neither": NONE, "context": HALF, "weights": FULL, "both": FULL}, training=0.5)
    by_place = {option.place: option for option in found.options}
    assert by_place["context"].cost_per_point == pytest.approx(1.0 / 50)  # a second for 50 points
    assert by_place["weights"].cost_per_point == pytest.approx(0.5 / 100)
    assert by_place["both"].cost == pytest.approx(1.5)
    assert by_place["neither"].cost_per_point is None
    assert by_place["context"].gain is not None
    assert 0.3 < by_place["context"].gain.low < 0.5


def test_a_cycle_measures_and_reports_clusters(calm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with agentkd.Workspace(calm) as workspace:
        report = workspace.report()
        html = workspace.report_path().read_text(encoding="utf-8")
    (phase,) = [phase for phase in report.phases if phase.name == "place"]
    assert report.placements
    assert phase.summary.startswith(f"{len(report.placements)} clusters of memories: ")
    assert sum(placement.n for placement in report.placements) > 0
    assert "Weights or memory" in html
    assert run_command_line(["-q", "-C", str(calm), "report"]) == 0
    assert report.placements[0].cluster in capsys.readouterr().out


def test_clusters_that_were_recalled_together_are_tried_with_one_of_them_withheld(cycled: Path) -> None:
    wide = {"place": {"extra_tasks": 3, "min_tasks": 1, "alike": 0.99, "max_clusters": 1}}
    with agentkd.Workspace(cycled, settings=wide) as workspace:
        tasks = workspace.parts.suite("jsonl").tasks("holdout")
        before = workspace.ledger.counts()["trajectories"]
        name = workspace.checkpoints()[0].name
        (found,) = place_memories(workspace.parts, name, tasks)
        assert {option.place for option in found.options} == {"neither", "context", "weights", "both"}
        added = workspace.ledger.counts()["trajectories"] - before
        assert 0 < added <= 6
        withheld = [run for run in workspace.trajectories()[-added:] if run.recalled]
        assert withheld
        assert not [run for run in withheld if set(run.recalled) & set(found.memories)]


@pytest.mark.parametrize("place", ["context", "neither", "weights", "both"])
def test_the_next_compile_and_retire_follow_what_was_decided(cycled: Path, place: Place) -> None:
    with agentkd.Workspace(cycled) as workspace:
        parts = workspace.parts
        rows = read_examples(cycled / "datasets" / workspace.datasets()[0].id / "train.jsonl")
        chosen = next(row for row in rows if row.provenance.memories).provenance.memories
        report = workspace.ledger.cycles.newest_phase("place")
        assert report is not None
        decision = Placement(cluster="x", memories=chosen, n=40, place=place, options=TRIED)
        assert measured_places(parts) == {}  # measured on what the gate decides on: shown, not followed
        assert report.output["placements"]
        placements = [decision.model_dump(mode="json")]
        output = {**report.output, "is_followed": True, "is_promoted": True, "placements": placements}
        later = report.model_copy(update={"key": "pha-later", "output": output})
        later = later.model_copy(update={"started_at": agentkd.schema.now()})
        workspace.ledger.cycles.phase_done(later, "cycle-2")
        assert set(measured_places(parts)) == set(chosen)
        card = workspace.compile()
        is_compiled = place in ("weights", "both")
        assert (chosen[0] not in card.ineligible) == is_compiled
        name = workspace.checkpoints()[0].name
        yes = Verdict(promote=True, checkpoint=name, against="base")
        retire_phase(parts, "pha-test", name, yes, workspace.report().evaluations)
        status = workspace.ledger.memories.status_for(name, chosen)[chosen[0]]
        assert (status != "active") == is_compiled
        if place == "both":
            assert status == "compiled"  # never retired
        if not is_compiled:
            assert card.n_train < workspace.datasets()[0].n_train
            assert card.ineligible[chosen[0]].startswith("placed ")


def test_each_memory_stays_where_it_was_last_measured(calm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(calm, tmp_path / "placed"))
    with agentkd.Workspace(folder) as workspace:
        first = workspace.ledger.cycles.newest_phase("place")
        assert first is not None

        def decide(key: str, *placements: Placement, **output: object) -> None:
            told = [each.model_dump(mode="json") for each in placements]
            report = first.model_copy(
                update={
                    "key": key,
                    "output": {
                        **first.output,
                        "is_followed": True,
                        "is_promoted": True,
                        "placements": told,
                        **output,
                    },
                    "started_at": agentkd.schema.now(),
                }
            )
            workspace.ledger.cycles.phase_done(report, f"cycle-{key}")

        def placed(
            place: Place, *memories: str, is_measured: bool = True, tried: tuple[Option, ...] = TRIED
        ) -> Placement:
            ways = {"options": tried, "is_measured": is_measured}
            return Placement(cluster="x", memories=memories, n=40, place=place, **ways)

        decide("2", placed("context", "mem-1", "mem-2"), placed("both", "mem-3"))
        decide("3", placed("weights", "mem-2"), placed("weights", "mem-3", is_measured=False))
        decide("4", placed("neither", "mem-1"), base_id="another")
        decide("5")  # nothing was recalled
        assert measured_places(workspace.parts) == {"mem-1": "context", "mem-2": "weights", "mem-3": "both"}
        decide("6", placed("weights", "mem-1"), is_followed=False)
        assert measured_places(workspace.parts) == {}
        decide("7")
        assert measured_places(workspace.parts)["mem-1"] == "context"
        decide("8", placed("weights", "mem-1"), is_promoted=False)  # a refused student's weights
        decide("9", placed("neither", "mem-1"), base_id="another")
        assert measured_places(workspace.parts)["mem-1"] == "context"
        decide("10", placed("context", "mem-1", "mem-4", tried=()))  # in no rows: it never was in weights
        assert measured_places(workspace.parts) == {"mem-1": "context", "mem-2": "weights", "mem-3": "both"}
        decide("11")
        assert measured_places(workspace.parts) == {"mem-2": "weights"}, "`[place] lasts` measurements later"


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_what_judges_and_what_is_learnt_from_may_not_steer(cycled: Path, split: str) -> None:
    with agentkd.Workspace(cycled, settings={"place": {"split": split}}) as workspace:
        with pytest.raises(ConfigError, match=f"`place.split` is `{split}`"):
            workspace.cycle()


def test_figures_of_a_split_of_its_own_are_followed(cycled: Path) -> None:
    own = {"place": {"split": "train", "min_tasks": 1, "max_clusters": 1}}
    with agentkd.Workspace(cycled, settings=own) as workspace:
        report = workspace.report()
        plan = Plan(number=2, suite="jsonl", split="other")
        yes = Verdict(promote=True, checkpoint=report.checkpoint, against="base")
        result = place_phase(workspace.parts, plan, report.checkpoint, report.evaluations, yes)
        assert result.output["is_followed"]
        assert "not followed" not in result.summary
        no = yes.model_copy(update={"promote": False})
        result = place_phase(workspace.parts, plan, report.checkpoint, report.evaluations, no)
        assert result.summary.endswith("shown, not followed: the candidate was refused")
    (phase,) = [phase for phase in report.phases if phase.name == "place"]
    assert not phase.output["is_followed"]
    assert phase.summary.endswith("shown, not followed: `[place] split` is not set")
