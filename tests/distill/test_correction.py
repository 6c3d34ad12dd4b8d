from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from agentkd.config import DistillSettings
from agentkd.distill import CorrectionDistiller, CorrectionSettings, distill_report
from agentkd.errors import ConfigError
from agentkd.schema import Scope, ToolResult

START = datetime(2026, 1, 1, tzinfo=UTC)


def sequence(make, run, *pairs, texts=None):
    """Return one correction per (step, proposed, accepted), a minute apart."""
    return [
        make.correction(
            run, (texts or {}).get(i, f"remark {i}"), step=step, proposed=(proposed,),
            accepted=() if accepted is None else (accepted,), created_at=START + timedelta(minutes=i),
        )
        for i, (step, proposed, accepted) in enumerate(pairs)
    ]  # fmt: skip


def rules(make, runs, corrections, kit=None, **settings):
    distiller = CorrectionDistiller(CorrectionSettings(**settings))
    report = distill_report(
        runs, corrections, [distiller], kit or make.kit(), DistillSettings(max_memories_per_trajectory=20)
    )
    return report, [m for m in report.memories if m.kind != "case"]


def flight(make, **arguments):
    return make.call("book_flight", **arguments)


def test_only_the_last_accepted_value_of_a_parameter_survives(make):
    run = make.trajectory(prompt="Fly me to Rome", calls=(flight(make, seat="middle"),))
    first, second, third = (flight(make, seat=seat) for seat in ("middle", "window", "aisle"))
    said = sequence(make, run, (0, first, second), (0, second, third))
    report, (rule,) = rules(make, [run], said)
    assert rule.content == "When calling `book_flight`, set `seat` to 'aisle'."
    assert (rule.kind, rule.evidence.corrections) == ("parameter", (said[1].id,))
    assert [m.calls for m in report.memories if m.kind == "case"] == [(third,)]
    assert "window" not in "".join(m.model_dump_json() for m in report.memories)


def test_the_order_of_time_decides_and_not_the_order_of_the_list(make):
    run = make.trajectory(prompt="Fly me to Rome", calls=(flight(make, seat="middle"),))
    middle, window, aisle = (flight(make, seat=seat) for seat in ("middle", "window", "aisle"))
    said = sequence(make, run, (0, middle, window), (0, window, aisle))
    _, (rule,) = rules(make, [run], said[::-1])
    assert "'aisle'" in rule.content


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"seat": "middle"}, {"seat": "aisle"}, "set `seat` to 'aisle'"),
        ({"city": "Paris"}, {"city": "Rome"}, "take `city` from the request"),
        ({"people": 1}, {"people": 3}, "take `people` from the request"),  # spelt as a word there
        ({"id": "A1"}, {"id": "ZFA04Y"}, "take `id` from the result of `find`"),
        ({"extra": 1}, {}, "leave out `extra`"),
        ({}, {"insurance": False}, "set `insurance` to False"),
    ],
)
def test_a_value_is_worded_by_where_it_can_be_read(make, before, after, expected):
    calls = (make.call("find"), flight(make, **before))
    run = make.trajectory(prompt="Fly three of us to Rome", calls=calls)
    found = run.steps[0].model_copy(update={"results": (ToolResult(content='{"id": "ZFA04Y"}'),)})
    run = run.model_copy(update={"steps": (found, run.steps[1])})
    said = sequence(make, run, (1, calls[1], flight(make, **after)))
    _, (rule,) = rules(make, [run], said)
    assert rule.content == f"When calling `book_flight`, {expected}."
    assert rule.keys.tools == "book_flight"


def test_a_value_of_one_instance_is_no_rule_until_it_recurs(make):
    def corrected(name):
        run = make.trajectory(name, prompt=f"Fly me to {name}", calls=(flight(make, card="x"),))
        return run, sequence(make, run, (0, run.steps[0].accepted_calls[0], flight(make, card="card_7334")))

    (one, said_one), (two, said_two) = corrected("Rome"), corrected("Oslo")
    report, found = rules(make, [one], said_one)
    assert found == []
    assert [r.reason for r in report.rejected] == ["instance-value"]
    _, (rule,) = rules(make, [one, two], [*said_one, *said_two])
    assert rule.content == "When calling `book_flight`, set `card` to 'card_7334'."
    assert rule.support == 2


def test_a_rule_is_found_by_all_requests_that_taught_it(make):
    """It is the same rule each time: the words of one request alone would have to bring it back."""
    prompts = ("Fly me to Rome on 3 May", "Get me on a plane to Oslo", "A ticket to Bern, please")
    runs = [
        make.trajectory(f"t{i}", prompt=prompt, calls=(flight(make, seat="middle"),))
        for i, prompt in enumerate(prompts)
    ]
    runs[2] = runs[2].model_copy(update={"scope": Scope(user="bob")})
    pair = flight(make, seat="middle"), flight(make, seat="aisle")
    _, (shared, own) = rules(make, runs, [c for run in runs for c in sequence(make, run, (0, *pair))])
    assert (shared.keys.query, shared.keys.more) == ("Fly me to Rome on", (prompts[1],))
    assert shared.evidence.trajectories == ("t0", "t1")
    assert (own.scope.user, own.keys.query, own.keys.more) == ("bob", prompts[2], ())


@pytest.mark.parametrize("found", [True, False])
def test_two_tries_of_one_task_say_no_more_than_one(make, found):
    def corrected(name):
        calls = (make.call("find"), flight(make, id="x"))
        run = make.trajectory(name, prompt="Cancel it", calls=calls, task="t")
        told = run.steps[0].model_copy(update={"results": (ToolResult(content="W2378156" if found else ""),)})
        run = run.model_copy(update={"steps": (told, run.steps[1])})
        return run, sequence(make, run, (1, calls[1], flight(make, id="W2378156")))

    (one, said_one), (two, said_two) = corrected("r1"), corrected("r2")
    report, kept = rules(make, [one, two], [*said_one, *said_two])
    assert {rule.content for rule in kept} == (
        {"When calling `book_flight`, take `id` from the result of `find`."} if found else set()
    )
    assert {refusal.reason for refusal in report.rejected} == (set() if found else {"instance-value"})


def test_another_tool_or_a_refused_call_is_about_the_plan(make):
    run = make.trajectory(prompt="Cancel order 12", calls=(make.call("cancel"), make.call("refund")))
    cancel, refund = run.steps[0].accepted_calls[0], run.steps[1].accepted_calls[0]
    said = sequence(
        make, run, (0, cancel, make.call("find_order")), (1, refund, None),
        texts={0: "Look the order up first.", 1: ""},
    )  # fmt: skip
    _, found = rules(make, [run], said)
    assert {m.kind for m in found} == {"constraint"}
    assert [m.content for m in found] == ["Look the order up first.", "Do not call `refund` here."]
    assert found[0].when_to_use == "Cancel order"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I always take the aisle.", "preference"),
        ("Please never call before nine.", "preference"),
        ("Ask for the address first.", "constraint"),
    ],
)
def test_words_decide_where_there_is_no_call(make, text, kind):
    run = make.trajectory()
    _, (rule,) = rules(make, [run], [make.correction(run, text)])
    assert (rule.kind, rule.content) == (kind, text)


def test_a_remark_that_takes_back_the_one_before_stands_alone(make):
    run = make.trajectory()
    said = [
        make.correction(run, "I always sit by the window.", created_at=START),
        make.correction(run, "Actually, I prefer the aisle.", created_at=START + timedelta(minutes=1)),
    ]
    _, (rule,) = rules(make, [run], said)
    assert rule.content == "Actually, I prefer the aisle."


def test_a_remark_that_is_said_again_takes_back_what_took_it_back(make):
    run = make.trajectory()
    texts = ("I sit by the window.", "Actually, I prefer the aisle.", "I sit by the window.")
    said = [
        make.correction(run, text, created_at=START + timedelta(minutes=n)) for n, text in enumerate(texts)
    ]
    _, found = rules(make, [run], said)
    assert {rule.content for rule in found} == {"I sit by the window."}


def test_a_rule_keeps_no_value_of_its_request(make):
    run = make.trajectory(prompt="Book 'The Fork' on 2024-03-05 for 4")
    _, (rule,) = rules(make, [run], [make.correction(run, "Check 2024-03-05 and 'The Fork' first, at 8:00.")])
    assert rule.content == "Check [as in the request] and [as in the request] first, at 8:00."
    assert "2024" not in rule.when_to_use


def test_a_preference_stays_with_its_user_and_out_of_the_weights(make):
    run = make.trajectory()
    said = [make.correction(run, "I always take the aisle.")]
    _, (rule,) = rules(make, [run], said, make.kit(memory={"scope": {"user": "ann"}}))
    assert (rule.scope.user, rule.privacy) == ("ann", "private")
    _, (rule,) = rules(make, [run], said)
    assert (rule.scope.user, rule.privacy) == ("", "shared")


def test_what_a_tool_or_grader_says_makes_cases_and_no_rules(make):
    run = make.trajectory(calls=(flight(make, seat="middle"),), success=False)
    right = make.correction(
        run, source="grader", proposed=run.steps[0].accepted_calls, accepted=(flight(make, seat="aisle"),)
    )
    report, found = rules(make, [run], [right])
    assert found == []
    assert len(report.memories) == 1


class Teacher:
    """Answers the two questions of the model path and keeps what it was shown."""

    def __init__(self, make, labels, rules):
        self.model = make.answers(self._answer)
        self._labels, self._rules = labels, rules

    def _answer(self, n, messages):
        if "You sort corrections" in messages[0].content:
            return json.dumps({"labels": self._labels})
        return json.dumps({"lessons": self._rules})

    @property
    def shown(self):
        return self.model.asked[-1][0][-1].content


def label(number, history, about="parameter"):
    return {"number": number, "about": about, "history": history}


def rule(**changed):
    base = {
        "about": "parameter",
        "when_to_use": "a flight is to be booked",
        "query": "book a flight",
        "lesson": "Seats are always by the aisle.",
        "quote": "by the aisle",
        "confidence": 0.8,
    }
    return {**base, **changed}


def corrected_twice(make):
    run = make.trajectory(
        prompt="Fly me to Rome on 2024-03-05", calls=(make.call("find"), flight(make, seat="x"))
    )
    middle, window, aisle = (flight(make, seat=seat) for seat in ("x", "window", "aisle"))
    texts = {0: "by the window", 1: "no, by the aisle"}
    return run, sequence(make, run, (1, middle, window), (1, window, aisle), texts=texts)


@pytest.mark.parametrize(
    ("history", "there", "not_there"),
    [
        ("none", [], ["What it refers to", "2024-03-05", "Step 0"]),
        ("first-request", ["2024-03-05"], ["Step 0", "Step 1"]),
        ("last-step", ["Step 1, call"], ["2024-03-05", "Step 0"]),
        ("whole-task", ["2024-03-05", "Step 0", "Step 1"], []),
    ],
)
def test_the_model_sees_only_the_history_that_a_correction_needs(make, history, there, not_there):
    run, said = corrected_twice(make)
    teacher = Teacher(make, [label(0, "none"), label(1, history)], [rule()])
    rules(make, [run], said, make.kit(teacher.model), use_model="always")
    assert all(text in teacher.shown for text in there)
    assert not [text for text in not_there if text in teacher.shown]
    assert "by the window" in teacher.shown  # the whole sequence is there


def test_the_model_words_one_rule_from_the_whole_sequence(make):
    run, said = corrected_twice(make)
    teacher = Teacher(make, [label(0, "none"), label(1, "none")], [rule()])
    report, (memory,) = rules(make, [run], said, make.kit(teacher.model), use_model="always")
    assert (memory.kind, memory.content) == ("parameter", "Seats are always by the aisle.")
    assert set(memory.evidence.corrections) == {c.id for c in said}
    assert memory.evidence.spans[0].origin == "person"
    assert [m.kind for m in report.memories].count("case") == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"lesson": "Seats are always by the window.", "quote": "by the window"}, "overruled"),
        ({"lesson": "Seats should have a view of the wing.", "quote": "by the window"}, "overruled"),
        ({"quote": "in the last row"}, "quote-not-found"),
    ],
)
def test_a_rule_of_an_overruled_or_invented_value_is_refused(make, changed, reason):
    run, said = corrected_twice(make)
    teacher = Teacher(make, [label(0, "none"), label(1, "none")], [rule(**changed)])
    report, found = rules(make, [run], said, make.kit(teacher.model), use_model="always")
    assert found == []
    assert [r.reason for r in report.rejected] == [reason]


def test_an_answer_not_understood_is_recorded_and_structure_decides_instead(make):
    run, said = corrected_twice(make)
    teacher = Teacher(make, [label(0, "none")], [])  # one label for two corrections, twice
    report, (memory,) = rules(make, [run], said, make.kit(teacher.model), use_model="always")
    assert [f.distiller for f in report.failures] == ["correction"]
    assert memory.content == "When calling `book_flight`, set `seat` to 'aisle'."
    assert any("read by structure" in notice for notice in report.notices)


def test_the_setting_and_the_role_decide_who_words_the_rules(make):
    run, said = corrected_twice(make)
    teacher = Teacher(make, [label(0, "none"), label(1, "none")], [rule()])
    filled = make.kit(teacher.model, roles={"distiller": "scripted:teacher"})
    _, (memory,) = rules(make, [run], said, filled)
    assert memory.content == "Seats are always by the aisle."
    for kit, use in ((filled, "never"), (make.kit(teacher.model), "auto")):
        _, (memory,) = rules(make, [run], said, kit, use_model=use)
        assert memory.content == "When calling `book_flight`, set `seat` to 'aisle'."
    with pytest.raises(ConfigError):
        rules(make, [run], said, make.kit(), use_model="always")


def test_a_value_that_a_later_correction_lets_pass_has_the_last_word(make):
    run = make.trajectory(prompt="Fly me to Rome", calls=(flight(make, seat="middle", meal="none"),))
    said = sequence(
        make, run,
        (0, flight(make, seat="middle", meal="none"), flight(make, seat="window", meal="none")),
        (0, flight(make, seat="aisle", meal="none"), flight(make, seat="aisle", meal="warm")),
    )  # fmt: skip
    _, found = rules(make, [run], said)
    assert sorted(m.content for m in found) == [
        "When calling `book_flight`, set `meal` to 'warm'.",
        "When calling `book_flight`, set `seat` to 'aisle'.",
    ]
