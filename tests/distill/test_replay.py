from __future__ import annotations

import json

import pytest

from agentkd.config import DistillSettings
from agentkd.distill import LessonSettings, build_failure, distill_report, replay_claim
from agentkd.schema import ToolCall, ToolSpec
from agentkd.testing import FakeSuite

RIGHT = ToolCall(name="book", arguments={"people": 2})


@pytest.fixture
def suite():
    return FakeSuite(
        {"train": [("Find a table for 2", RIGHT)], "holdout": [("Find a table for 5", RIGHT)]},
        tools=[ToolSpec(name="book"), ToolSpec(name="find")],
        name="shop",
    )


def failed(make, suite, split="train"):
    run = make.trajectory("t1", calls=(make.call("find"),), success=False)
    return run.model_copy(update={"task": suite.tasks(split)[0]})


def claiming(arguments, confidence=0.5):
    lesson = {
        "when_to_use": "a user asks for a table",
        "query": "book a table",
        "lesson": "Book in one go.",
        "quote": "Find a table for 2",
        "key_step": 0,
        "confidence": confidence,
        "call": {"name": "book", "arguments": arguments},
    }
    return json.dumps({"lessons": [lesson]})


def distilled(make, run, arguments, suites, **settings):
    kit = make.kit(make.answers(lambda n, m: claiming(arguments)), suites=suites)
    distiller = build_failure(LessonSettings(**settings), None)
    return distill_report([run], [], [distiller], kit, DistillSettings())


def test_a_claim_that_holds_raises_confidence_and_says_that_it_was_replayed(make, suite):
    report = distilled(make, failed(make, suite), {"people": 2}, [suite])
    (memory,) = report.memories
    assert memory.extras == {"replayed": True}
    assert memory.confidence == 0.75
    assert report.counts == {"failure: claims: holds": 1}


def test_a_claim_that_fails_is_refused_with_the_reason(make, suite):
    report = distilled(make, failed(make, suite), {"people": 3}, [suite])
    assert report.memories == ()
    assert [r.reason for r in report.rejected] == ["claim-failed"]
    assert "not what was asked for" in report.rejected[0].detail


def test_without_the_suite_or_with_replay_off_nothing_is_replayed_and_it_is_said(make, suite):
    run = failed(make, suite)
    report = distilled(make, run, {"people": 3}, [])
    assert len(report.memories) == 1
    assert report.memories[0].extras == {}
    assert any("the suite `shop` is not known" in notice for notice in report.notices)
    report = distilled(make, run, {"people": 3}, [suite], replay=False)
    assert len(report.memories) == 1
    assert report.counts == {}


def test_held_out_and_ad_hoc_tasks_are_never_replayed(make, suite):
    kit = make.kit(suites=[suite])
    held = failed(make, suite, "holdout")
    assert replay_claim(held, 0, RIGHT, kit).verdict == "unknown"
    adhoc = held.model_copy(
        update={"task": held.task.model_copy(update={"suite": "adhoc", "split": "train"})}
    )
    assert replay_claim(adhoc, 0, RIGHT, kit).verdict == "unknown"


class TwoCalls:
    """A world that is done after `find` and then `book`."""

    name = "shop"

    class World:
        tools = (ToolSpec(name="find"), ToolSpec(name="book"))

        def call(self, call):
            from agentkd.schema import ToolResult

            if not call.arguments:
                return ToolResult(error="find what?")
            return ToolResult(content="ok", ends_task=call.name == "book")

        def close(self):
            return None

    def environment(self, task):
        return self.World()

    def grade(self, trajectory):
        from agentkd.schema import Outcome

        calls = [(c.name, c.arguments) for s in trajectory.steps for c in s.accepted_calls]
        done = calls == [("find", {"city": "Oslo"}), ("book", {"people": 2})]
        return Outcome(success=done, reward=float(done))


@pytest.mark.parametrize(
    ("step", "call", "verdict"),
    [
        (0, ToolCall(name="find", arguments={"city": "Oslo"}), "holds"),  # what came after is kept
        (0, ToolCall(name="find", arguments={"city": "Rome"}), "unknown"),  # wrong, but the task goes on
        (0, ToolCall(name="find", arguments={}), "fails"),  # the tool refuses it
        (0, RIGHT, "fails"),  # it ends the task
        (1, RIGHT, "fails"),  # what came before is kept too, and it was wrong
    ],
)
def test_a_claim_stands_in_the_place_of_the_key_step(make, step, call, verdict):
    run = make.trajectory(calls=(make.call("find", city="Bergen"), RIGHT), success=False)
    assert replay_claim(run, step, call, make.kit(suites=[TwoCalls()])).verdict == verdict
    assert replay_claim(run, step, call, make.kit(suites=[TwoCalls()])).verdict == verdict  # a fresh world


class Answered(TwoCalls):
    """A world whose grader reads the answer, and which knows one tool."""

    class World(TwoCalls.World):
        def call(self, call):
            from agentkd.schema import ToolResult

            return ToolResult() if call.name == "find" else ToolResult(error="there is no such tool")

    def grade(self, trajectory):
        from agentkd.schema import Outcome

        done = trajectory.answer == "42" or [c.name for s in trajectory.steps for c in s.accepted_calls] == [
            "wipe", "find"
        ]  # fmt: skip
        return Outcome(success=done, reward=float(done))


def test_the_answer_of_the_run_proves_no_claim_nor_does_a_call_that_fails(make):
    run = make.trajectory(success=True, answer="42", calls=(make.call("look"), make.call("find")))
    kit = make.kit(suites=[Answered()])
    assert replay_claim(run, 0, make.call("wipe"), kit).verdict == "fails"
    assert "no such tool" in replay_claim(run, 0, make.call("wipe"), kit).detail
    assert replay_claim(run, 0, make.call("find"), kit).verdict == "unknown"


@pytest.mark.parametrize(
    "later", [(), (ToolCall(name="book", arguments={"people": 9}),)], ids=["none", "wrong"]
)
def test_a_right_first_step_is_not_refused_for_the_steps_that_the_run_never_took(make, later):
    run = make.trajectory(calls=(make.call("find", city="Bergen"), *later), success=False)
    right = ToolCall(name="find", arguments={"city": "Oslo"})
    replayed = replay_claim(run, 0, right, make.kit(suites=[TwoCalls()]))
    assert replayed.verdict == "unknown"
    assert "further steps" in replayed.detail
    run = run.model_copy(update={"task": run.task.model_copy(update={"prompt": "Find a table for 2"})})
    answer = json.loads(claiming({}))
    answer["lessons"][0]["call"] = {"name": "find", "arguments": {"city": "Oslo"}}
    kit = make.kit(make.answers(lambda n, m: json.dumps(answer)), suites=[TwoCalls()])
    report = distill_report([run], [], [build_failure(LessonSettings(), None)], kit, DistillSettings())
    assert (len(report.memories), report.rejected) == (1, ())
    assert report.memories[0].extras == {}  # it may stay, but nothing was proven


def test_a_claim_that_the_replay_does_not_come_to_is_unknown(make):
    class Ends(TwoCalls):
        def grade(self, trajectory):
            return super().grade(trajectory).model_copy(update={"success": True})

    run = make.trajectory(calls=(RIGHT, make.call("find", city="Oslo")), success=True)
    kit = make.kit(suites=[Ends()])
    assert replay_claim(run, 0, RIGHT, kit).verdict == "holds"
    replayed = replay_claim(run, 1, make.call("find", city="Rome"), kit)
    assert (replayed.verdict, "ends before it" in replayed.detail) == ("unknown", True)


def test_a_world_that_breaks_says_nothing_about_the_claim(make):
    class Broken(TwoCalls):
        def environment(self, task):
            raise OSError("no database")

    run = make.trajectory(calls=(RIGHT,), success=False)
    replayed = replay_claim(run, 0, RIGHT, make.kit(suites=[Broken()]))
    assert replayed.verdict == "unknown"
    assert "no database" in replayed.detail
