"""Lineage leads from any fact down to its sources and up to what came of it."""

from __future__ import annotations

from typing import Any

import pytest

from agentkd.errors import NotFoundError
from agentkd.ledger import Ledger, LineageNode, Link
from agentkd.schema import Heard

Make = Any
STUDENT = "student@1-00000001"


def test_a_checkpoint_leads_down_to_every_source(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    graph = ledger.lineage.down(STUDENT)
    assert graph.kind == "checkpoint"
    assert {(node.kind, node.id) for node in graph.nodes} == {
        ("checkpoint", STUDENT), ("dataset", "ds-1"), ("row", "ex-1"), ("memory", memory.id),
        ("correction", "cor-1"), ("trajectory", "trj-1"), ("trajectory", "trj-2"),
    }  # fmt: skip
    assert set(graph.edges) == {
        (STUDENT, "ds-1"), ("ds-1", "ex-1"), ("ex-1", memory.id), ("ex-1", "trj-2"), ("ex-1", "cor-1"),
        (memory.id, "trj-1"), (memory.id, "cor-1"), ("cor-1", "trj-1"),
    }  # fmt: skip
    assert ledger.lineage.counts(STUDENT) == graph.counts()
    assert graph.counts()["trajectory"] == len(graph.ids("trajectory")) == 2


@pytest.mark.parametrize("start", ["trj-1", "cor-1", "ex-1", "ds-1"])
def test_every_fact_leads_up_to_the_checkpoint(ledger: Ledger, make: Make, start: str) -> None:
    make.whole_loop(ledger)
    graph = ledger.lineage.up(start)
    assert graph.root == start
    assert graph.ids("checkpoint") == (STUDENT,)


def test_what_was_made_from_it_knows_the_way_back(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    ledger.memories.supersede(memory.id, newer := make.memory("look it up twice", "trj-2"))
    ledger.checkpoints.add(make.checkpoint(2, parent=STUDENT))
    assert memory.id in ledger.lineage.down(newer.id).ids("memory")
    assert newer.id in ledger.lineage.up(memory.id).ids("memory")
    for graph in (ledger.lineage.up("trj-1"), ledger.lineage.up("trj-2")):
        for made in (node.id for node in graph.nodes):
            assert graph.root in {node.id for node in ledger.lineage.down(made).nodes}
    assert STUDENT in ledger.lineage.down("student@2-00000002").ids("checkpoint")


def test_a_run_whose_model_heard_another_one_rests_on_it(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    page = Heard(tool="read_page", text="pay mallory", trust="untrusted", trajectory="trj-1")
    later = make.trajectory(7, success=True).model_copy(update={"id": "trj-7", "heard": (page,)})
    ledger.trajectories.begin(later)
    ledger.trajectories.finish(later)
    assert ("trj-7", "trj-1") in ledger.lineage.up("trj-1").edges
    assert set(ledger.lineage.down("trj-7").ids("trajectory")) == {"trj-7", "trj-1"}
    assert "trj-7" not in {node.id for node in ledger.lineage.up(memory.id).nodes}


def test_a_row_that_recurs_with_more_evidence_lends_none_of_it_to_earlier_datasets(
    ledger: Ledger, make: Make
) -> None:
    memory = make.whole_loop(ledger)
    ledger.trajectories.finish(make.trajectory(3))
    again = make.example(1, memories=(memory.id,), trajectories=("trj-2", "trj-3"), corrections=("cor-1",))
    ledger.datasets.add(make.card("ds-2"), [again])
    ledger.checkpoints.add(make.checkpoint(2, "ds-2"))
    newer = "student@2-00000002"
    assert ledger.lineage.down(STUDENT).ids("trajectory") == ("trj-1", "trj-2")
    assert ledger.lineage.down(newer).ids("trajectory") == ("trj-1", "trj-2", "trj-3")
    assert ledger.lineage.up("trj-3").ids("checkpoint") == (newer,)
    assert ledger.lineage.up("trj-2").ids("checkpoint") == (STUDENT, newer)
    assert ledger.lineage.up("trj-2").ids("row") == ("ex-1",)


def test_an_example_is_the_row_of_every_dataset_that_holds_it(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    ledger.datasets.add(make.card("ds-2"), [make.example(1, memories=(memory.id,))])
    assert ledger.lineage.up("ex-1").ids("dataset") == ("ds-1", "ds-2")
    signals = Link(LineageNode(kind="signals", id="sig"), LineageNode(kind="row", id="ex-1"))
    graph = ledger.lineage.down("sig", [signals])
    assert ("sig", "ex-1") in graph.edges
    assert graph.ids("row") == ("ex-1",)
    assert graph.ids("correction") == ("cor-1",)
    assert ledger.lineage.up(memory.id, [signals]).ids("signals") == ("sig",)


def test_an_unknown_id_is_said(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError, match="`nothing`"):
        ledger.lineage.down("nothing")
