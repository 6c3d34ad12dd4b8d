"""The stream of `benchmarks/droc.py` in small: who was corrected once needs no correction the next time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from droc import RuleActor, open_for, serve
from droc_desk import Desk, requests_of, tools_of


def corrections(folder: Path, person: str, number: int, *, recall: bool = True) -> int:
    """Play a round with one request of each kind and return how often the person had to step in."""
    desk = Desk()
    with open_for(folder, person, embedder="hashing", index="exact", min_score=0.05) as workspace:
        tools = tools_of(desk, person)
        agent = workspace.agent(
            tools, model=RuleActor(), recall=recall, interrupt_on=[tool.spec.name for tool in tools]
        )
        run_id = f"{person}-{number}-{recall}"
        outcomes = [serve(agent, r, desk, run_id) for r in requests_of(person, number, 0, 1)]
        assert all(outcome.is_right for outcome in outcomes)
        counted = {each.run_id: each.n_corrections for each in workspace.ledger.corrections.rounds()}
        assert counted[run_id] == sum(outcome.n_corrections for outcome in outcomes)
        workspace.distill(run_id)
        return counted[run_id]


def test_corrections_fall_for_the_person_who_gave_them_and_for_nobody_else(tmp_path: Path) -> None:
    assert corrections(tmp_path, "ann", 0) == 10
    assert corrections(tmp_path, "ann", 1) <= 2
    assert corrections(tmp_path, "ann", 1, recall=False) == 10
    assert corrections(tmp_path, "bob", 0) == 10
