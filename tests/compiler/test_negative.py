"""What failed runs said: rejected where something right is known, alone where nothing is."""

from __future__ import annotations

import pytest

from agentkd.agents.feedback import tool_corrections
from agentkd.schema import Outcome, ToolResult


def compiled(make, rows, runs, corrections=(), **more):
    card = make.compile(make.inputs(runs, corrections), need_rejected=True, **more)
    return card, rows(card)


def said(rendered, make):
    return make.tokenizer.decode([t for t, w in zip(rendered.ids, rendered.weights, strict=True) if w])


def test_a_failure_beside_a_success_becomes_the_rejected_side_of_a_pair(make, rows):
    good = make.run(calls=(make.call("find"), make.call("book", people=2)))
    bad = make.run(id="bad", attempt=1, success=False, calls=(make.call("find"), make.call("book", people=9)))
    card, (first, second) = compiled(make, rows, [good, bad])
    assert first.rejected is None  # both runs began alike
    assert second.rejected.content == '{"name": "book", "arguments": {"people": 9}}'
    assert said(second.student_rejected, make) == second.rejected.content + "<|im_end|>"
    assert second.provenance.trajectories == (good.id, "bad")
    assert (second.kind, card.n_pairs, card.dropped) == ("trajectory", 1, {})


def test_a_correction_of_another_run_is_the_right_answer_too(make, rows):
    one = make.run(id="one", success=False, calls=(make.call("find", q="a"),))
    two = make.run(id="two", attempt=1, success=False, calls=(make.call("find", q="b"),))
    right = make.correction(one, make.call("book"))
    _, found = compiled(make, rows, [one, two], [right])
    pair, alone = found
    assert pair.rejected.content == '{"name": "find", "arguments": {"q": "a"}}'
    assert (alone.kind, alone.rejected.content) == ("negative", '{"name": "find", "arguments": {"q": "b"}}')


def test_a_failure_without_any_right_answer_stands_alone(make, rows):
    calls = (make.call("find"), make.call("book", city="Oslo"))
    card, (row,) = compiled(make, rows, [make.run(success=False, calls=calls)])
    assert (row.kind, row.target.content) == ("negative", "")
    assert row.rejected.content == '{"name": "book", "arguments": {"city": "Oslo"}}'  # the last thing said
    assert not any(row.student.weights)
    assert row.student_rejected.ids[: len(row.student.ids)] == row.student.ids
    assert (card.kinds, card.n_label_tokens, card.n_pairs) == ({"negative": 1}, 0, 1)


def test_the_first_call_that_failed_stands_for_the_mistake(make, rows):
    run = make.run(success=False, calls=(make.call("find"), make.call("book")))
    broken = run.steps[0].model_copy(update={"results": (ToolResult(error="no such place"),)})
    _, (row,) = compiled(make, rows, [run.model_copy(update={"steps": (broken, run.steps[1])})])
    assert row.rejected.content == '{"name": "find", "arguments": {}}'


def test_a_call_that_a_tool_took_in_a_failed_run_is_no_right_answer(make, rows):
    """The grader says that order 71 was the wrong one, whatever the tool thought of the call."""
    calls = (make.call("book", people="seventeen"), make.call("book", people=71))
    run = make.run(success=False, calls=calls)
    refused = run.steps[0].model_copy(update={"results": (ToolResult(error="no number"),)})
    run = run.model_copy(update={"steps": (refused, run.steps[1])})
    (mended,) = tool_corrections(run)
    _, (row,) = compiled(make, rows, [run], [mended])
    assert (row.kind, row.rejected.tool_calls[0]) == ("negative", calls[0])
    assert make.compile(make.inputs([run], [mended])).dropped == {"failed without a correction": 1}
    done = run.model_copy(update={"outcome": Outcome(success=True)})
    _, (first, _) = compiled(make, rows, [done], [mended])
    assert (first.target.tool_calls, first.rejected.tool_calls) == (calls[1:], calls[:1])


def test_the_most_frequent_wrong_answer_is_paired_and_the_others_stand_alone(make, rows):
    good = make.run(calls=(make.call("book", people=2),))
    bad = [
        make.run(id=f"bad-{i}", attempt=i + 1, success=False, calls=(make.call("book", people=n),))
        for i, n in enumerate((9, 7, 7))
    ]
    _, (pair, alone) = compiled(make, rows, [good, *bad])
    assert pair.rejected.tool_calls[0].arguments == {"people": 7}
    assert pair.provenance.trajectories == (good.id, "bad-1", "bad-2")
    assert alone.rejected.tool_calls[0].arguments == {"people": 9}


def test_a_run_that_failed_like_a_success_teaches_nothing(make, rows):
    good, bad = make.run(), make.run(id="bad", attempt=1, success=False)
    card, (row,) = compiled(make, rows, [good, bad])
    assert row.rejected is None
    assert card.dropped == {"failed without a wrong answer of its own": 1}


@pytest.mark.parametrize("success", [False, None])
def test_without_an_objective_that_asks_nothing_changes(make, rows, success):
    runs = [make.run(), make.run("b", success=success)]
    card = make.compile(make.inputs(runs))
    (row,) = rows(card)
    assert row.rejected is None
    assert card.kinds == {"trajectory": 1}


def test_an_ungraded_run_is_no_negative(make, rows):
    card, found = compiled(make, rows, [make.run(success=None)])
    assert found == []
    assert card.dropped == {"not graded": 1}


def test_what_a_failed_run_said_under_a_revoked_memory_is_not_even_rejected(make, rows):
    bad = make.run(success=False, calls=(make.call("find"),), recalled=("mem-x",))
    card = make.compile(make.inputs([bad], revoked=frozenset({"mem-x"})), need_rejected=True)
    assert (rows(card), card.dropped) == ([], {"said by a model that was shown a revoked memory": 1})


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_rejected_answer_rests_on_the_memories_that_its_model_was_shown(make, rows, is_alone):
    good = make.run()
    bad = make.run(id="bad", attempt=1, success=False, calls=(make.call("find"),), recalled=("mem-x",))
    _, (row,) = compiled(make, rows, [bad] if is_alone else [good, bad])
    assert row.rejected is not None
    assert row.provenance.memories == ("mem-x",)
    assert row.kind == ("negative" if is_alone else "trajectory")


def test_an_answer_is_not_target_and_rejected_in_one_dataset(make, rows):
    """A person's word stands against a success, a success against the word of a tool."""
    good = make.run(id="good", calls=(make.call("find"),))
    bad = make.run(id="bad", attempt=1, success=False, calls=(make.call("find"),))
    by_person = make.correction(bad, make.call("book"), step=0, source="person")
    card, (row,) = compiled(make, rows, [good, bad], [by_person])
    assert (row.target.tool_calls[0].name, row.rejected.tool_calls[0].name) == ("book", "find")
    assert card.dropped == {"a weightier word rejects it": 1}
    again = make.run(id="again", attempt=2)
    by_tool = make.correction(again, make.call("book"), step=0, source="tool", proposed=(make.call("find"),))
    _, found = compiled(make, rows, [good, again], [by_tool])
    assert sorted(row.target.tool_calls[0].name for row in found) == ["book", "find"]
    assert [row.rejected for row in found] == [None, None]
