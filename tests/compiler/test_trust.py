"""Nothing untrusted, unverified, redacted or private becomes a training row."""

from __future__ import annotations

import pytest

from agentkd.compiler.eligibility import UNTRUSTED, Holdings, fault_of
from agentkd.config import CompileSettings, TrustSettings
from agentkd.schema import Scope, ToolResult


@pytest.fixture
def compiled(make, rows):
    """Give a function that compiles inputs and returns the card and the rows."""

    def compile_(*args, **more):
        card = make.compile(make.inputs(*args, **more))
        return card, rows(card)

    return compile_


def asked_by(make, user="mallory", **more):
    run = make.run(more.pop("name", "evil"), **more)
    return run.model_copy(
        update={"task": run.task.model_copy(update={"suite": "adhoc"}), "scope": Scope(user=user)}
    )


def web(make, name="web", declared="untrusted"):
    """A run of two calls whose first result is outside text."""
    run = make.run(name, calls=(make.call("find"), make.call("book", people=2)))
    first = run.steps[0].model_copy(update={"results": (ToolResult(content="obey", trust=declared),)})
    return run.model_copy(update={"steps": (first, run.steps[1])})


def with_evidence(memory, **fields):
    return memory.model_copy(update={"evidence": memory.evidence.model_copy(update=fields)})


def seen(memory):
    """The memory as it is when a person has admitted it with the evidence that it has."""
    evidence = memory.evidence
    return with_evidence(memory, vouched=(*evidence.trajectories, *evidence.steps))


def sources(rows):
    return {id_ for row in rows for id_ in row.provenance.trajectories}


def test_runs_of_users_files_and_pages_are_no_rows(make, compiled):
    good = make.run("good")
    runs = [
        good,
        asked_by(make),
        make.run("claimed", imported_from="fake.json"),
        asked_by(make, name="failed", success=False, calls=(make.call("book", people=9),)),
    ]
    card, found = compiled(runs)
    assert sources(found) == {good.id}
    assert card.dropped[UNTRUSTED] == 2
    card, found = compiled(runs, trust=TrustSettings(gate=False))
    assert sources(found) == {run.id for run in runs[:3]}


def test_a_run_that_untrusted_output_came_into_is_no_row(make, compiled):
    card, found = compiled([web(make)])
    assert (found, card.dropped[UNTRUSTED]) == ([], 2)
    _, found = compiled([web(make, declared="")])  # a suite's own tool
    assert [row.target.tool_calls[0].name for row in found] == ["find", "book"]


@pytest.mark.parametrize(("trust", "compiles"), [
    ("untrusted", False), ("", False), ("trusted", False), ("corroborated", True), ("admitted", True),
])  # fmt: skip
def test_a_memory_that_was_let_in_carries_its_runs(make, compiled, trust, compiles):
    run = asked_by(make)
    memory = make.memory("say please", run, trust=trust)
    _, found = compiled([run], memories=[memory])
    assert bool(found) is compiles
    if compiles:
        assert found[0].provenance.memories == (memory.id,)


def test_a_memory_that_was_let_in_carries_no_other_turn_of_its_run(make, compiled):
    calls = (make.call("find"), make.call("book", city="Evil"))
    run = asked_by(make, calls=calls)
    memory = make.memory("find first", run, trust="admitted")
    memory = with_evidence(memory, steps=(f"{run.id}:0",))
    card, found = compiled([run], memories=[memory])
    assert [row.target.tool_calls[0].name for row in found] == ["find"]
    assert card.dropped[UNTRUSTED] == 1


def test_a_claim_is_carried_by_no_memory(make, compiled):
    run = make.run("claimed", imported_from="fake.json")
    for trust in ("corroborated", "admitted"):
        assert compiled([run], memories=[seen(make.memory("say please", run, trust=trust))])[1] == []


def test_a_person_stands_for_the_turns_that_were_there_and_not_for_later_ones(make, compiled):
    """What joins the evidence afterwards needs a verified run, as under a memory that nobody looked at."""
    first = asked_by(make, calls=(make.call("find"), make.call("book", city="Evil")), success=False)
    later, won = asked_by(make, name="later", success=False), asked_by(make, name="won")
    places = [(first, 0), (first, 1), (later, 0)]
    opinions = [make.correction(run, make.call("book"), source="judge", step=n) for run, n in places]
    memory = seen(with_evidence(make.memory("find first", first, trust="admitted"), steps=(f"{first.id}:0",)))
    joined = {"trajectories": (first.id, later.id, won.id), "steps": (f"{first.id}:0", f"{first.id}:1")}
    card, found = compiled([first, later, won], opinions, [with_evidence(memory, **joined)])
    assert [(row.provenance.trajectories, row.provenance.corrections) for row in found] == [
        ((first.id,), (opinions[0].id,)),
        ((won.id,), ()),
    ]
    assert card.dropped[UNTRUSTED] == 2


@pytest.mark.parametrize(("source", "n"), [("person", 1), ("grader", 1), ("judge", 0), ("tool", 0)])
def test_a_correction_counts_where_somebody_answers_for_it(make, compiled, source, n):
    run = asked_by(make, success=False)
    said = make.correction(run, make.call("book", people=4), source=source, step=0)
    _, found = compiled([run], [said])
    assert len(found) == n
    claimed = said.model_copy(update={"imported_from": "pack.zip"})
    assert compiled([run], [claimed])[1] == []


def test_an_untrusted_memory_is_neither_compiled_nor_shown(make):
    bad = make.memory("wire money", make.run("x"), trust="untrusted")
    assert fault_of(bad, CompileSettings()) == UNTRUSTED
    held = Holdings.of([bad], CompileSettings(show_facts=True))
    assert (held.allowed, held.faults) == ({}, {bad.id: UNTRUSTED})
    assert held.shown([type("Hit", (), {"memory": bad})()], frozenset()) == []


def test_a_target_that_lost_a_secret_teaches_nothing(make, compiled):
    run = make.run("a", calls=(make.call("book", city="[redacted:password]"),))
    card, found = compiled([run])
    assert found == []
    assert card.dropped["its target holds a redacted secret"] == 1


def test_what_rests_on_a_private_memory_stays_out(make, compiled):
    run = make.run("a")
    private = make.memory("say please", run, privacy="private")
    card, found = compiled([run], memories=[private])
    assert found == []
    assert card.eligibility == {"eligible": 0, "private": 1}


def test_every_row_names_its_teacher_and_its_base(make, compiled):
    run, wrong = make.run("a"), make.run("b", success=False)
    said = make.correction(wrong, make.call("book", people=4), step=0)
    _, found = compiled([run, wrong], [said])
    assert {row.provenance.teacher for row in found} == {"base", "grader"}
    assert all(row.provenance.base for row in found)
