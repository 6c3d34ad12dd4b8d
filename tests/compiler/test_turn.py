from __future__ import annotations

from collections import Counter

import pytest

from agentkd.agents.feedback import tool_corrections
from agentkd.compiler import SuccessOnlySelector, SupportSelector, SupportSettings
from agentkd.compiler.call import in_schema_order
from agentkd.compiler.turn import turns_of
from agentkd.hf import call_text
from agentkd.schema import Message, Outcome, Step, ToolCall, ToolResult, ToolSpec


def said(turns):
    return [turn.target.content for turn in turns]


def test_every_turn_of_a_success_is_a_row_with_its_history(make, rows):
    run = make.run(calls=(make.call("find"), make.call("book", city="Oslo")))
    last = Step(index=2, reply=Message(role="assistant", content="Your table is booked."))
    run = run.model_copy(update={"steps": (*run.steps, last)})
    card = make.compile(make.inputs([run]))
    first, second, third = rows(card)
    assert [len(row.student_view) for row in (first, second, third)] == [2, 4, 6]
    assert third.target.content == "Your table is booked."
    roles = [(m.role, m.content) for m in third.student_view[2:4]]
    assert roles == [("assistant", '{"name": "find", "arguments": {}}'), ("tool", "result 0")]
    assert "result 1" in make.tokenizer.decode(third.student.ids)


def test_parallel_calls_become_one_call_per_turn(make):
    calls = (make.call("find"), make.call("book"))
    reply = Message(role="assistant", tool_calls=calls)
    step = Step(
        index=0, reply=reply, accepted_calls=calls, results=(ToolResult(content="A"), ToolResult(content="B"))
    )
    run = make.run().model_copy(update={"steps": (step,)})
    one, two = turns_of(run, (), (), Counter())
    assert [m.content for m in two.history] == [one.target.content, "A"]


def test_failed_calls_on_the_way_are_history_but_no_target(make):
    run = make.run(calls=(make.call("find"), make.call("book")))
    bad = run.steps[0].model_copy(update={"results": (ToolResult(error="no such place"),)})
    dropped = Counter()
    (turn,) = turns_of(run.model_copy(update={"steps": (bad, run.steps[1])}), (), (), dropped)
    assert turn.history[-1].content == "error: no such place"
    assert dropped == {"call that failed on the way": 1}


def test_a_refused_proposal_is_neither_target_nor_history(make):
    refused = Step(index=0, reply=Message(role="assistant", tool_calls=(make.call("cancel"),)))
    good = make.run().steps[0].model_copy(update={"index": 1})
    dropped = Counter()
    (turn,) = turns_of(make.run().model_copy(update={"steps": (refused, good)}), (), (), dropped)
    assert turn.history == ()
    assert turn.step == 1
    assert dropped == {"proposed call that was not accepted": 1}


def test_a_corrected_step_of_a_failure_is_the_only_turn_of_it(make):
    run = make.run(calls=(make.call("find"), make.call("find")), success=False)
    right = make.correction(run, make.call("book"), step=1, source="person")
    (turn,) = turns_of(run, [right], (), Counter())
    assert turn.is_correction
    assert turn.step == 1
    assert len(turn.history) == 2
    assert turn.rejected.content == '{"name": "find", "arguments": {}}'


def test_an_edit_by_a_person_wins_over_a_grader_and_is_what_was_executed(make):
    proposed, edited = make.call("find"), make.call("book", city="Oslo")
    step = Step(
        index=0,
        reply=Message(role="assistant", tool_calls=(proposed,)),
        accepted_calls=(edited,),
        results=(ToolResult(content="ok"),),
    )
    run = make.run().model_copy(update={"steps": (step,)})
    person = make.correction(run, edited, step=0, source="person", proposed=(proposed,))
    grader = make.correction(run, make.call("other"), step=0, id="cor-g")
    (turn,) = turns_of(run, [person, grader], (), Counter())
    assert turn.target.tool_calls == (edited,)
    assert turn.rejected.tool_calls == (proposed,)
    assert turn.teacher == "person"


@pytest.mark.parametrize("success", [True, False, None])
def test_an_edited_call_among_several_follows_those_that_ran_before_it(make, success):
    """Approved, edited, edited: no row skips a sibling, and no edit is lost to another one."""
    first, second, third = make.call("find"), make.call("book", city="Rome"), make.call("pay", euros=9)
    right = (first, make.call("book", city="Oslo"), make.call("pay", euros=5))
    step = Step(
        index=0,
        reply=Message(role="assistant", tool_calls=(first, second, third)),
        accepted_calls=right,
        results=tuple(ToolResult(content=f"ok {n}") for n in range(3)),
    )
    outcome = None if success is None else Outcome(success=success)
    run = make.run().model_copy(update={"steps": (step,), "outcome": outcome})
    edits = [
        make.correction(run, right[n], step=0, source="person", proposed=(proposed,), id=f"cor-{n}")
        for n, proposed in ((1, second), (2, third))
    ]
    whole = make.correction(run, make.call("other"), step=0, id="cor-g")
    turns = list(turns_of(run, [*edits, whole], (), Counter()))
    wanted = [(call, 2 * n) for n, call in enumerate(right) if n or success]
    assert [(turn.target.tool_calls[0], len(turn.history)) for turn in turns] == wanted
    assert [turn.rejected.tool_calls[0] for turn in turns if turn.is_correction] == [second, third]
    assert [turn.corrections for turn in turns if turn.is_correction] == [("cor-1",), ("cor-2",)]
    assert turns[-1].history[1].content == "ok 0"


@pytest.mark.parametrize("is_at_once", [False, True])
def test_a_mended_call_among_several_leaves_the_others_their_place(make, is_at_once):
    """The tool refused the second of two calls; the agent mended it in the next step, or in the same."""
    flight, wrong, hotel = make.call("find"), make.call("book", city="Roma"), make.call("book", city="Rome")
    calls, answers = (flight, wrong, hotel), (
        ToolResult(content="flown"),
        ToolResult(error="no such city"),
        ToolResult(content="booked"),
    )  # fmt: skip
    cuts = [slice(0, 3)] if is_at_once else [slice(0, 2), slice(2, 3)]
    steps = tuple(
        Step(
            index=index,
            reply=Message(role="assistant", tool_calls=calls[cut]),
            accepted_calls=calls[cut],
            results=answers[cut],
        )
        for index, cut in enumerate(cuts)
    )
    run = make.run().model_copy(update={"steps": steps})
    own, mended, again = turns_of(run, tool_corrections(run), (), Counter())
    assert [turn.target.tool_calls[0] for turn in (own, mended, again)] == [flight, hotel, hotel]
    assert [len(turn.history) for turn in (own, mended, again)] == [0, 2, 4]
    assert [turn.is_correction for turn in (own, mended, again)] == [False, True, False]
    assert (mended.rejected.tool_calls, mended.teacher) == ((wrong,), "tool")


def test_a_step_that_a_person_corrects_as_a_whole_is_no_edit_of_one_of_its_calls(make):
    first, second = make.call("find"), make.call("book", city="Oslo")
    step = Step(
        index=0,
        reply=Message(role="assistant", tool_calls=(first, second)),
        accepted_calls=(first, second),
        results=(ToolResult(content="a"), ToolResult(content="b")),
    )
    run = make.run().model_copy(update={"steps": (step,), "outcome": Outcome(success=True)})
    right = make.correction(run, second, step=0, source="person", proposed=(first, second))
    (turn,) = turns_of(run, [right], (), Counter())
    assert (turn.target.tool_calls, turn.history) == ((second,), ())
    assert turn.rejected.tool_calls == (first,)


def test_an_accepted_answer_in_words_is_a_target(make):
    run = make.run(calls=(), success=False)
    right = make.correction(run, accepted_answer="We close at five.", source="person")
    assert said(turns_of(run, [right], (), Counter())) == ["We close at five."]


def test_the_wrong_text_is_what_an_accepted_answer_is_preferred_to(make):
    wrong = Step(index=0, reply=Message(role="assistant", content="We close at nine."))
    run = make.run(calls=(), success=False).model_copy(update={"steps": (wrong,)})
    right = make.correction(run, accepted_answer="We close at five.", kind="answer")
    (turn,) = turns_of(run, [right], (), Counter())
    assert (turn.target.content, turn.target.tool_calls) == ("We close at five.", ())
    assert turn.rejected.content == "We close at nine."
    assert (turn.teacher, turn.is_correction, turn.history) == ("grader", True, ())


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("text", ["It is in Berlin.", ""])
def test_an_accepted_answer_for_a_whole_run_follows_what_was_done_before_it(make, success, text):
    """The calls before the wrong text stay as they are: own work of a success, and never rejected."""
    run = make.run(calls=(make.call("find"),), success=success)
    last = [Step(index=1, reply=Message(role="assistant", content=text))] if text else []
    run = run.model_copy(update={"steps": (*run.steps, *last)})
    right = make.correction(
        run, accepted_answer="It is in Hamburg.", proposed=(make.call("find"),), source="person"
    )
    *before, turn = turns_of(run, [right], (), Counter())
    own = [(made.target.tool_calls, made.rejected) for made in before]
    assert own == [((make.call("find"),), None)] * success
    assert (turn.target.content, turn.step, turn.corrections) == ("It is in Hamburg.", 1, (right.id,))
    assert [message.role for message in turn.history] == ["assistant", "tool"]
    assert (turn.rejected.content if turn.rejected else "") == text


def test_later_calls_of_a_correction_have_unknown_history_and_are_counted(make):
    run = make.run(success=False)
    dropped = Counter()
    right = make.correction(run, make.call("find"), make.call("book"), make.call("book"))
    assert said(turns_of(run, [right], (), dropped)) == ['{"name": "find", "arguments": {}}']
    assert dropped == {"later call of a correction": 2}


def test_a_call_of_a_tool_that_is_not_offered_is_left_out(make):
    dropped = Counter()
    assert not list(turns_of(make.run(), (), [ToolSpec(name="find")], dropped))
    assert dropped == {"call of a tool that is not offered": 1}


def test_keys_follow_the_schema_at_every_depth(make):
    inner = {"type": "object", "properties": {"x": {}, "y": {}}}
    schema = {"properties": {"a": {"type": "array", "items": inner}, "b": inner}}
    call = ToolCall(name="t", arguments={"extra": 0, "b": {"y": 1, "x": 2}, "a": [{"y": 3, "x": 4}]}, id="7")
    ordered = in_schema_order(call, ToolSpec(name="t", parameters=schema))
    assert str(ordered.arguments) == "{'a': [{'x': 4, 'y': 3}], 'b': {'x': 2, 'y': 1}, 'extra': 0}"
    assert ordered.id == ""


def test_selectors_keep_own_work_and_supported_rows(make, rows):
    good, bad = make.run("a"), make.run("b", success=False)
    right = make.correction(bad, make.call("book"))
    memories = [make.memory("m", good, bad)]
    inputs = make.inputs([good, bad, make.run("c")], [right], memories)
    card = make.compile(inputs, selectors=[SuccessOnlySelector()])
    assert [row.task_id for row in rows(card)] == ["a", "c"]
    assert card.dropped == {"selector success-only": 1}
    card = make.compile(inputs, selectors=[SupportSelector(SupportSettings(min_support=2))])
    assert [row.task_id for row in rows(card)] == ["a", "b"]
    assert card.settings["selectors"] == ["support"]


def test_weights_of_selectors_are_multiplied_and_belong_to_the_row(make, rows):
    class Half:
        name = "half"

        def score(self, examples):
            return [0.5] * len(examples)

    inputs = make.inputs([make.run()])
    (plain,) = rows(make.compile(inputs))
    (row,) = rows(make.compile(inputs, selectors=[Half(), Half()]))
    assert row.weight == 0.25
    assert row.id != plain.id


def conversation(make, **more):
    """The agent asks whether to book, the user agrees, the agent books."""
    booking = make.call("book", city="Oslo")
    asks = Message(role="assistant", content="Shall I book Oslo?", origin="model")
    books = Message(role="assistant", tool_calls=(booking,), origin="model")
    steps = (
        Step(index=0, reply=asks),
        Step(index=1, reply=books, accepted_calls=(booking,), results=(ToolResult(content="booked"),)),
    )
    said_ = (
        Message(role="user", content="A table, please."),
        asks,
        Message(role="user", content="Yes, Oslo."),
    )
    return make.run().model_copy(update={"steps": steps, "messages": (*said_, books), **more})


def test_what_a_user_says_after_the_request_is_in_the_history_of_later_turns(make, rows):
    """Without it the student would learn to book what nobody has agreed to."""
    asked, booked = rows(make.compile(make.inputs([conversation(make)])))
    assert [m.role for m in asked.student_view] == ["system", "user"]
    assert [(m.role, m.content) for m in booked.student_view[2:]] == [
        ("assistant", "Shall I book Oslo?"),
        ("user", "Yes, Oslo."),
    ]
    assert "Yes, Oslo." in make.tokenizer.decode(booked.student.ids)


def test_what_a_failed_run_says_stands_after_the_words_of_its_user_too(make, rows):
    run = conversation(make, outcome=Outcome(success=False))
    (row,) = rows(make.compile(make.inputs([run]), need_rejected=True))
    assert row.student_view[-1].content == "Yes, Oslo."
    assert row.rejected.tool_calls[0].name == "book"


def test_a_correction_of_one_of_two_calls_does_not_reject_the_other(make):
    first, wrong, right = make.call("find"), make.call("book", city="Oslo"), make.call("book", city="Bergen")
    step = Step(
        index=0,
        reply=Message(role="assistant", tool_calls=(first, wrong)),
        accepted_calls=(first, wrong),
        results=(ToolResult(content="a"), ToolResult(content="b")),
    )
    run = make.run().model_copy(update={"steps": (step,), "outcome": Outcome(success=False)})
    (turn,) = turns_of(run, [make.correction(run, right, step=0, source="person")], (), Counter())
    assert turn.target.tool_calls == (right,)
    assert turn.rejected.tool_calls == (wrong,)
    assert [m.content for m in turn.history] == ['{"name": "find", "arguments": {}}', "a"]


@pytest.mark.parametrize("names", [(), ("find",)], ids=["the step", "one call of it"])
def test_what_a_person_objected_to_is_no_target_of_a_success(make, names):
    run = make.run(calls=(make.call("find"), make.call("book")))
    proposed = tuple(make.call(name) for name in names)
    objection = make.correction(run, step=0, source="person", text="not that", proposed=proposed)
    dropped = Counter()
    (turn,) = turns_of(run, [objection], (), dropped)
    assert turn.step == 1
    assert dropped == {"a person objected to it": 1}
    other = objection.model_copy(update={"proposed": (make.call("cancel"),)})
    assert len(list(turns_of(run, [other], (), Counter()))) == 2


def test_what_was_said_before_the_request_stands_before_it(make, rows):
    """A turn of a conversation that goes on: `yes` alone would teach to book without being asked."""
    found = make.call("find", q="table")
    earlier = (
        Message(role="user", content="Is there a table?"),
        Message(role="assistant", content=call_text(found), tool_calls=(found,), origin="model"),
        Message(role="tool", content="one in Oslo", origin="tool"),
    )
    run = make.run(prompt="yes, that one", earlier=earlier)
    other = make.run(prompt="yes, that one", id="other", attempt=1)
    memory = make.memory("Book at once.", make.run("far"))
    card = make.compile(make.inputs([run, other], memories=[memory]), need_teacher=True)
    row, alone = sorted(rows(card), key=lambda row: -len(row.student_view))
    assert [m.role for m in row.student_view] == ["system", "user", "assistant", "tool", "user"]
    assert row.student_view[-1].content == "Request: yes, that one"
    assert [m.role for m in row.teacher_view] == [m.role for m in row.student_view]
    assert "Book at once." in row.teacher_view[-1].content
    assert len(alone.student_view) == 2
