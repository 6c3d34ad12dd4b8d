"""Recalled text is never a source, and a run does not support what it was shown."""

from __future__ import annotations

import pytest

from agentkd.embedders import HashingEmbedder
from agentkd.schema import Evidence, Hit, Span, ToolCall
from agentkd.testing import example_correction, example_trajectory

CALL = ToolCall(name="find_order", arguments={"email": "a@b.c"})


@pytest.fixture
def shown(store, ledger):
    """Return a function that stores memories and a run whose prompt held them; returns the run's id."""

    def run(id_, *memories):
        store.admit(memories)
        trajectory = example_trajectory().model_copy(update={"id": id_})
        ledger.trajectories.begin(trajectory)
        ledger.memories.record_recall(id_, 0, [Hit(memory=memory, score=0.9) for memory in memories])
        ledger.trajectories.finish(trajectory)
        return id_

    return run


def span(run, origin, quote="look at the date of the order"):
    return Span(trajectory=run, origin=origin, quote=quote)


def resting(memory, *spans):
    return memory.model_copy(update={"evidence": memory.evidence.model_copy(update={"spans": spans})})


@pytest.mark.parametrize("origins", [("memory",), ("system",), ("memory", "system")])
def test_recalled_and_instructed_text_is_no_source(store, lesson, happened, origins):
    run = happened("tra-1")
    memory = resting(lesson("asks for money", evidence=(run,)), *(span(run, o) for o in origins))
    [answer] = store.admit([memory])
    assert answer.outcome == "rejected"
    assert "never a source" in answer.reason
    assert store.recall("asks for money") == []


def test_one_own_source_is_enough(store, lesson, happened):
    run = happened("tra-1")
    memory = resting(lesson("asks for money", evidence=(run,)), span(run, "memory"), span(run, "tool"))
    assert store.admit([memory])[0].outcome == "stored"


def test_words_of_the_model_that_stand_in_what_it_was_shown_are_recalled_text(store, lesson, shown):
    run = shown("tra-1", lesson("asks for a refund", "First look at the date of the order, then pay."))
    copied = resting(lesson("wants money", "mind the date", evidence=(run,)), span(run, "model"))
    assert "never a source" in store.admit([copied])[0].reason
    own = resting(
        lesson("wants money", "mind the date", evidence=(run,)), span(run, "model", "I mind dates well")
    )
    assert store.admit([own])[0].outcome == "stored"


def test_an_echo_supports_nothing(store, ledger, lesson, shown):
    first = lesson("asks for a refund", "check the date of the order")
    run = shown("tra-1", first)
    for words in ("asks for a refund", "asks for a refund of boots"):
        [answer] = store.admit([lesson(words, "Check the date of the order.", evidence=(run,))])
        assert (answer.outcome, "echo" in answer.reason) == ("rejected", True)
        assert first.id in answer.reason
    assert ledger.memories.get(first.id).support == 1
    assert len(ledger.memories.list()) == 1


def test_a_run_that_was_not_shown_the_lesson_supports_it(store, ledger, lesson, shown, happened):
    first = lesson("asks for a refund", "check the date of the order")
    echo, own = shown("tra-1", first), happened("tra-2")
    [answer] = store.admit([lesson("asks for a refund", "check the date of the order", evidence=(echo, own))])
    assert answer.outcome == "merged"
    assert ledger.memories.get(first.id).evidence.trajectories == (own,)


def test_a_withheld_memory_makes_no_echo(store, ledger, lesson):
    first = lesson("asks for a refund", "check the date of the order")
    store.admit([first])
    run = example_trajectory()
    ledger.trajectories.begin(run)
    ledger.memories.record_recall(run.id, 0, [Hit(memory=first, score=0.9)], withheld={first.id})
    ledger.trajectories.finish(run)
    again = lesson("asks for a refund", "check the date of the order", evidence=(run.id,))
    assert store.admit([again])[0].outcome == "merged"


def test_another_value_or_other_calls_are_no_echo(store, lesson, shown):
    case = lesson("find my order", "call it", kind="case", calls=(CALL,))
    run = shown("tra-1", lesson("asks for a list", "set the limit to 10 for them"), case)
    other = CALL.model_copy(update={"arguments": {"email": "x@y.z"}})
    answers = store.admit(
        [
            lesson("asks for a list", "set the limit to 20 for them", evidence=(run,)),
            lesson("find my order", "call it so", kind="case", calls=(other,), evidence=(run,)),
            lesson("find my order", "call", kind="case", calls=(CALL,), evidence=(run,)),
        ]
    )
    assert [answer.outcome for answer in answers] == ["stored", "stored", "rejected"]


@pytest.mark.parametrize(("source", "support"), [("person", 2), ("grader", 2), ("tool", 1)])
def test_what_a_person_said_is_no_echo_and_what_a_tool_said_is(store, ledger, lesson, shown, source, support):
    first = lesson("asks for a refund", "check the date of the order")
    run = shown("tra-1", first)
    said = example_correction(ledger.trajectories.get(run)).model_copy(update={"source": source})
    ledger.corrections.add(said)
    again = lesson("asks for a refund", "check the date of the order").model_copy(
        update={"evidence": Evidence(trajectories=(run,), corrections=(said.id,))}
    )
    store.admit([again])
    assert ledger.memories.get(first.id).support == support


class Counts(HashingEmbedder):
    def __init__(self):
        super().__init__()
        self.texts = []

    def embed(self, texts):
        self.texts.extend(texts)
        return super().embed(texts)


def test_nothing_is_embedded_twice_or_for_nothing(make_store, lesson):
    embedder = Counts()
    make_store(embedder=embedder).admit([lesson(f"situation {n}", f"do {n}") for n in range(50)])
    assert sorted(embedder.texts) == sorted(f"situation {n}" for n in range(50))
