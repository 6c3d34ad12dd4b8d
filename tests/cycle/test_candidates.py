"""Several cycles in a row: what was learnt stays in the union, two candidates share one level."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.compiler import read_examples
from agentkd.compiler.write import write_dataset
from agentkd.cycle.candidate import sources_of
from agentkd.cycle.html import render_html
from agentkd.cycle.journal import open_plan
from agentkd.cycle.phases import promote_phase
from agentkd.cycle.replay import is_ground_truth, union
from agentkd.errors import PluginError
from agentkd.evaluate.statistics import wilson
from agentkd.schema import (
    ArmResult,
    DatasetCard,
    Example,
    Message,
    PhaseReport,
    Provenance,
    Rendered,
    TaskResult,
    Verdict,
)

from .conftest import TOOLS

BOTH = {"candidates": ["union", "stacked"], "epochs": 1, "replay_share": 0.5}


def with_second_split(folder: Path) -> dict[str, Any]:
    """Write a file of tasks with a split `later`: other cities, and requests of the first split's tools."""
    file = folder / "more.jsonl"
    rows = [
        {
            "id": f"{split}-{tool['name']}-{city}",
            "prompt": f"Which {tool['name']} has {city}?",
            "split": split,
            "tools": TOOLS,
            "calls": [{"name": tool["name"], "arguments": {"city": city}}],
        }
        for split, cities in (
            ("train", ("Bern",)),
            ("later", ("Kyiv", "Riga")),
            ("holdout", ("Bonn", "Nice")),
        )
        for tool in TOOLS
        for city in cities
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return {"suite": {"jsonl": {"path": str(file)}}, "cycle": {"split": "later", "min_new_memories": 0}}


class Stopped(Exception):
    """A cycle was cut off."""


class StopsAfter:
    """A plugin that cuts a cycle off after so many phases of a name."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n

    @agentkd.hookimpl
    def after_phase(self, report: PhaseReport) -> None:
        self.n -= report.name == self.name
        if not self.n:
            raise Stopped


def test_both_candidates_are_trained_judged_and_gone_on_with(cycled: Path) -> None:
    changed = with_second_split(cycled)
    settings = {
        **changed,
        "train": BOTH,
        "evaluate": {"arms": ["base", "student"]},
        "gate": {"anchors": False, "contamination": "off", "against": ["base"]},
    }
    with agentkd.Workspace(cycled) as workspace:
        first = workspace.report()
        taught = workspace.ledger.datasets.rows(first.phases[3].output["dataset_id"], "train")
        workspace.promote(first.checkpoint, force=True)
    with agentkd.Workspace(cycled, settings=settings, plugins=[StopsAfter("train", 1)]) as workspace:
        with pytest.raises(PluginError, match="Stopped"):
            workspace.cycle()
        begun = workspace.ledger.checkpoints.names()
        assert len(begun) == 2  # the second candidate was not begun
    with agentkd.Workspace(cycled, settings=settings) as workspace:
        report = workspace.cycle()
        checkpoints = {c.name: c for c in workspace.checkpoints()}
        stacked, fresh = (
            next(
                c for c in checkpoints.values() if c.name != first.checkpoint and bool(c.parent) is has_parent
            )
            for has_parent in (True, False)
        )
        assert set(checkpoints) == {first.checkpoint, fresh.name, stacked.name}
        assert fresh.name == begun[1]
        assert stacked.parent == first.checkpoint
        rows = {
            name: workspace.ledger.datasets.rows(c.dataset_id, "train") for name, c in checkpoints.items()
        }
        truth = {row.example_id for row in taught if row.kind == "correction"}
        assert truth
        assert truth < {row.example_id for row in rows[fresh.name]}
        replayed = truth & {row.example_id for row in rows[stacked.name]}
        assert 0 < len(replayed) < len(truth)
        assert report.verdict is not None
        assert {report.verdict.checkpoint, *(v.checkpoint for v in report.rejected)} == {
            fresh.name,
            stacked.name,
        }
        assert [phase.name for phase in report.phases].count("evaluate") == 2
        assert report.evaluations[0].checkpoint == report.verdict.checkpoint
        for verdict in (report.verdict, *report.rejected):
            assert verdict.numbers["alpha"] == pytest.approx(0.05 / 2 * 6 / 3.14159265**2 / 4, rel=1e-4)
        page = render_html(report)
    assert "was rejected" in page
    with agentkd.Workspace(
        cycled, settings={**settings, "train": {**BOTH, "candidates": ["union"]}}
    ) as again:
        plan = open_plan(again.parts)
        newest = again.datasets()[-1].id
        assert [source.kind for source in sources_of(again.parts, plan, newest)] == ["union"]


def evaluated(name: str, wins: int, n: int = 40) -> PhaseReport:
    """Return the phase `evaluate` of a candidate that does the first `wins` tasks; the base does five."""

    def arm(title: str, done: int) -> ArmResult:
        results = tuple(TaskResult(task_id=f"t{i}", success=i < done) for i in range(n))
        return ArmResult(name=title, n=n, success=wilson(done, n), results=results)

    from agentkd.evaluate import make_evaluation

    evaluation = make_evaluation(
        suite="s", split="holdout", arms=[arm("base", 5), arm("student", wins)], candidate="student",
        checkpoint=name, seed=0, settings=agentkd.config.EvaluateSettings(bootstrap=500),
    )  # fmt: skip
    output = {"checkpoint": name, "evaluations": [evaluation.model_dump(mode="json")], "earlier": []}
    return PhaseReport(name="evaluate", key=name, status="done", output=output)


@pytest.fixture
def judge_all(cycled: Path) -> Iterator[Callable[[Sequence[PhaseReport]], dict[str, Any]]]:
    """Return a function that lets the gate decide on candidates of one cycle."""
    gate: dict[str, Any] = {
        "spend_alpha": False,
        "against": ["base"],
        "anchors": False,
        "contamination": "off",
        "exports": [],
    }
    with agentkd.Workspace(cycled, settings={"gate": gate}) as workspace:
        known = workspace.checkpoints()[0]
        for number in (7, 8):
            shutil.copytree(cycled / "checkpoints" / known.name, cycled / "checkpoints" / f"student@{number}")
            workspace.ledger.checkpoints.add(
                known.model_copy(update={"name": f"student@{number}", "status": "candidate"})
            )

        def decide(judged: Sequence[PhaseReport]) -> dict[str, Any]:
            decided = promote_phase(workspace.parts, open_plan(workspace.parts), judged).output
            statuses = {c.name: c.status for c in workspace.checkpoints()}
            return {
                "verdict": Verdict.model_validate(decided["verdict"]),
                "rejected": [Verdict.model_validate(each) for each in decided["rejected"]],
                "statuses": statuses,
            }

        yield decide


def test_the_better_of_two_that_pass_serves_and_the_other_stays_rejected(judge_all: Any) -> None:
    decided = judge_all([evaluated("student@7", 25), evaluated("student@8", 30)])
    assert decided["verdict"].promote
    assert decided["verdict"].checkpoint == "student@8"
    assert decided["rejected"][0].flags == ("surpassed",)
    assert not decided["rejected"][0].promote
    assert decided["statuses"]["student@8"] == "serving"
    assert decided["statuses"]["student@7"] == "rejected"


def test_two_looks_cost_what_two_looks_should(judge_all: Any) -> None:
    just = evaluated("student@7", 10)  # 5 won, none lost: p = 0.031
    decided = judge_all([just, evaluated("student@8", 5)])
    assert not decided["verdict"].promote
    assert decided["verdict"].numbers["alpha"] == 0.025
    assert decided["statuses"]["student@7"] == "rejected"
    alone = judge_all([just])
    assert alone["verdict"].promote
    assert alone["verdict"].numbers["alpha"] == 0.05


def row(name: str, kind: Any, teacher: str, said: str, task: str = "t") -> Example:
    view = (Message(role="user", content=f"Request: {task}"),)
    target = Message(role="assistant", content=said)
    rendered = Rendered(ids=(1, 2), weights=(0.0, 1.0))
    return Example(
        id=name, kind=kind, task_id=task, student_view=view, target=target, student=rendered,
        provenance=Provenance(teacher=teacher),
    )  # fmt: skip


def test_ground_truth_is_never_replaced_by_the_students_own_answers(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        model = workspace.datasets()[0]

        def dataset(name: str, rows: Sequence[Example]) -> DatasetCard:
            from agentkd import hf

            card = model.model_copy(update={"id": name, "n_train": len(rows), "n_dev": 0})
            tokenizer = hf.load_tokenizer(workspace.parts.student_files.path)
            pairs = [(each, "train") for each in rows]
            write_dataset(cycled / "datasets", pairs, lambda tally: card, tokenizer)  # type: ignore[arg-type]
            workspace.ledger.datasets.add(card, rows)
            return card

        truth = row("truth", "correction", "grader", "accepted")
        person = row("person", "correction", "person", "wanted", task="v")
        mended = row("mended", "correction", "tool", "mended", task="w")
        dataset("dat-old", [truth, person, mended])
        own = [
            row("own", "internalise", "path:x@student@1", "my own"),
            row("own-v", "trajectory", "path:x@student@1", "mine", task="v"),
            row("own-w", "trajectory", "path:x@student@1", "mine", task="w"),
        ]
        dataset("dat-new", own)
        assert [is_ground_truth(each) for each in (truth, person, mended, *own)] == [True, True] + [False] * 4
        guess = truth.provenance.model_copy(update={"teacher": "openai/x", "is_retold": True})
        assert not is_ground_truth(truth.model_copy(update={"provenance": guess}))

        def ids(**how: Any) -> set[str]:
            made = union(workspace.parts, "dat-new", ["dat-old"], **how)
            file = cycled / "datasets" / made.id / "train.jsonl"
            return {each.id for each in read_examples(file)}

        assert ids(share=1.0) == {"truth", "person", "mended", "own-w"}
        assert ids(share=0.0) == {"truth", "person", "own-w"}  # what displaces one's own words is taught
        assert ids(share=1.0, known={"own-w"}) == {"truth", "person", "mended", "own-w"}
        assert ids(share=0.0, known={"own-w"}) == {"truth", "person"}


def test_a_union_whose_id_a_revocation_tainted_gets_another_one(
    cycled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.datasets()[0].id
        first = union(workspace.parts, name, []).id
        assert union(workspace.parts, name, []).id == first
        tainted = {first: frozenset({"ex-of-a-revoked-run"})}
        revocations = workspace.ledger.revocations
        monkeypatch.setattr(revocations, "rows", lambda name: tainted.get(name, frozenset()))
        assert union(workspace.parts, name, []).id != first
