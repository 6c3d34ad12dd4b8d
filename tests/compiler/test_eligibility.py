"""What may not go into weights stays out, with its reason; the rows follow from the memories under them."""

from __future__ import annotations

import pytest

from agentkd.compiler import fault_of
from agentkd.config import CompileSettings
from agentkd.schema import Scope, Utility

SHOWN = Utility(recalls=30, wins=27, held_out=10, held_out_wins=2)
IDLE = Utility(recalls=30, wins=15, held_out=10, held_out_wins=5)
ANN = Scope(user="ann")


@pytest.mark.parametrize(
    ("changes", "settings", "fault"),
    [
        ({}, {}, ""),
        ({"status": "revoked"}, {}, "revoked"),
        ({"privacy": "private"}, {}, "private"),
        ({"status": "quarantined"}, {}, "quarantined"),
        ({"kind": "fact"}, {}, "a fact"),
        ({"kind": "fact", "scope": ANN}, {"personal": True}, "a fact"),
        ({"kind": "preference", "scope": ANN}, {}, "of one user"),
        ({"kind": "preference", "scope": ANN}, {"personal": True}, ""),
        ({"kind": "preference"}, {}, ""),
        ({"support": 1}, {"min_support": 2}, "too little support"),
        ({"utility": SHOWN}, {}, ""),
        ({"utility": IDLE}, {}, "lift not shown"),
        ({"utility": IDLE}, {"min_lift": -1.0}, ""),
        ({"utility": IDLE}, {"lift_tasks": 11}, ""),  # not measured yet
    ],
)
def test_a_memory_that_may_not_be_compiled_says_why(make, changes, settings, fault):
    memory = make.memory("do it", make.run(), **changes)
    assert fault_of(memory, CompileSettings(**settings)) == fault


@pytest.mark.parametrize(
    ("place", "fault"),
    [("context", "placed in the context"), ("neither", "placed nowhere"), ("weights", ""), ("both", "")],
)
def test_what_was_measured_says_where_a_memory_goes(make, place, fault):
    memory = make.memory("do it", make.run())
    assert fault_of(memory, places={memory.id: place}) == fault


def test_the_card_gives_the_reason_of_every_memory_and_row(make, rows):
    runs = {name: make.run(name) for name in ("good", "fact", "mixed")}
    memories = [
        make.memory("good", runs["good"]),
        make.memory("fact", runs["fact"], kind="fact"),
        make.memory("lesson", runs["mixed"]),
        make.memory("mixed", runs["mixed"], kind="fact"),
    ]
    card = make.compile(make.inputs(list(runs.values()), memories=memories))
    assert {row.task_id for row in rows(card)} == {"good", "mixed"}
    assert card.dropped == {"memory: a fact": 1}
    assert card.eligibility == {"eligible": 2, "a fact": 2}
    assert card.ineligible == {memories[1].id: "a fact", memories[3].id: "a fact"}


def test_the_same_rows_from_other_memories_are_told_with_their_own_reasons(make):
    runs = [make.run("good"), make.run("more")]
    before = make.compile(make.inputs(runs))
    fact = make.memory("somewhere else", make.run("elsewhere"), kind="fact")
    after = make.compile(make.inputs(runs, memories=[fact]))
    assert (before.id, before.eligibility) == (after.id, {"eligible": 0})
    assert after.ineligible == {fact.id: "a fact"}


def test_what_the_base_does_unaided_is_not_trained(make, rows):
    def compiled(*runs, **settings):
        inputs = make.inputs(list(runs), bases=frozenset({"base"}))
        card = make.compile(inputs, settings=settings)
        return {row.task_id for row in rows(card)}, card.dropped.get("the base does it without help", 0)

    easy = make.run("easy")
    helped = make.run("helped", recalled=("mem-1",))
    stranger = make.run("stranger", model="openai/gpt-5-mini")
    assert compiled(easy, helped, stranger) == ({"helped", "stranger"}, 1)
    assert compiled(easy, easy_above=1.0) == ({"easy"}, 0)
    failed = make.run("easy", success=False, id="tra-2", attempt=1)
    assert compiled(easy, failed)[1] == 0  # half of its runs


def test_a_student_reads_the_facts_that_stay_in_the_context(make, rows):
    run = make.run()
    fact = make.memory("OSLO IS FULL", make.run("other"), kind="fact")
    lesson = make.memory("BOOK EARLY", make.run("other"))
    inputs = make.inputs([run], memories=[fact, lesson])

    def seen(**settings):
        (row,) = rows(make.compile(inputs, settings=settings))
        return "\n".join(message.content for message in row.student_view), row.provenance.memories

    text, memories = seen(show_facts=True)
    assert "OSLO IS FULL" in text
    assert "BOOK EARLY" not in text
    assert memories == (fact.id,)
    assert seen() == (seen()[0], ())
    assert "OSLO IS FULL" not in seen()[0]


def test_what_must_not_be_said_stands_in_the_same_context_as_what_must(make, rows):
    failed = make.run("lost", success=False)
    fact, lesson = (
        make.memory(text, make.run("other"), kind=kind)
        for text, kind in (("OSLO IS FULL", "fact"), ("BOOK EARLY", "case"))
    )
    inputs = make.inputs([failed], memories=[fact, lesson])
    card = make.compile(
        inputs, need_rejected=True, need_teacher=True, settings={"show_facts": True, "memory_share": 1.0}
    )
    (row,) = rows(card)
    text = "\n".join(message.content for message in row.student_view)
    assert (row.kind, row.teacher_view, row.provenance.memories) == ("negative", (), (fact.id,))
    assert "OSLO IS FULL" in text
    assert "BOOK EARLY" not in text
