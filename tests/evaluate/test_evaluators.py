"""The arithmetic of the evaluators: calibration, origins of sentences, and who does a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentkd.evaluate import Ablation, expected_calibration_error, make_evaluation
from agentkd.evaluate.provenance import origin_of, sentences
from agentkd.evaluate.said import first_turns
from agentkd.evaluate.statistics import wilson
from agentkd.schema import ArmResult, Evaluation, Message, Outcome, Task, TaskResult, Trajectory


def test_calibration_is_the_gap_between_being_sure_and_being_right() -> None:
    assert expected_calibration_error([(0.95, True)] * 19 + [(0.95, False)]) == pytest.approx(0.0)
    assert expected_calibration_error([(0.95, False)] * 20) == pytest.approx(0.95)
    mixed = [(0.95, True)] * 10 + [(0.15, True)] * 10
    assert expected_calibration_error(mixed) == pytest.approx((0.05 + 0.85) / 2)
    assert expected_calibration_error([(1.0, True)]) == 0.0
    assert expected_calibration_error([]) == 0.0


@pytest.mark.parametrize(
    ("teacher", "before", "after", "origin"),
    [
        (-0.2, -3.0, -0.1, "teacher"),
        (-3.0, -0.2, -0.1, "before"),
        (-0.3, -0.2, -0.1, "both"),
        (-4.0, -3.0, -0.1, "new"),
    ],
)
def test_a_sentence_comes_from_whom_finds_it_likely(
    teacher: float, before: float, after: float, origin: str
) -> None:
    assert origin_of(teacher, before, after, margin=0.5) == origin


def test_texts_are_cut_into_sentences_and_calls_into_arguments() -> None:
    def cut(text: str) -> list[str]:
        return [text[start:end].strip() for start, end in sentences(text)]

    assert cut("It rains. Take a coat!\nBye") == ["It rains.", "Take a coat!", "Bye"]
    call = '{"name": "weather", "arguments": {"city": "Rome, IT", "day": "now"}}'
    assert cut(call) == ['"name": "weather",', '"arguments": {', '"city": "Rome, IT",', '"day": "now"}}']
    assert cut("...") == []


def evaluation(**right: Sequence[bool]) -> Evaluation:
    arms = []
    for name, done in right.items():
        results = tuple(TaskResult(task_id=f"t{n}", success=one) for n, one in enumerate(done))
        share = wilson(sum(done), len(done))
        arms.append(ArmResult(name=name.replace("_", " + "), n=len(done), success=share, results=results))
    return make_evaluation(suite="s", split="holdout", arms=arms, checkpoint="student@1")


class Comparison:
    """A comparison of which only the evaluation is looked at."""

    serving, base, before, after = "base", Path(), None, Path()

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def rows(self, split: str) -> Iterator[Any]:
        raise AssertionError("not looked at")

    def trajectories(self, arm: str) -> Sequence[Trajectory]:
        return ()


def test_an_ablation_says_what_each_task_takes_and_shares_the_gain() -> None:
    found = Ablation().evaluate(
        Comparison(
            evaluation(
                base=[True, False, False, False, False],
                base_memory=[True, True, False, True, False],
                student=[False, True, True, False, False],
                student_memory=[True, True, True, False, True],
            )
        ),
        SimpleNamespace(),
    )
    assert [row[-1] for row in found.rows] == [
        "prompt, lost by the weights", "memory or weights", "weights alone", "memory alone", "only together",
    ]  # fmt: skip
    assert found.metrics["memory"] == pytest.approx(((3 - 1) + (4 - 2)) / 2 / 5)
    assert found.metrics["weights"] == pytest.approx(((2 - 1) + (4 - 3)) / 2 / 5)
    total = found.metrics["prompt"] + found.metrics["memory"] + found.metrics["weights"]
    assert total == pytest.approx(4 / 5)
    assert not found.flags
    assert (
        "needs the arms"
        in Ablation().evaluate(Comparison(evaluation(base=[True])), SimpleNamespace()).notes[0]
    )


def test_the_first_turn_of_the_first_attempt_is_what_counts() -> None:
    def run(task: str, attempt: int, *messages: Message) -> Trajectory:
        return Trajectory(
            id=f"{task}-{attempt}", run_id="r", task=Task(id=task, prompt="?"), attempt=attempt,
            messages=messages, outcome=Outcome(success=attempt == 0),
        )  # fmt: skip

    asked, said = Message(role="user", content="?"), Message(role="assistant", content="yes")
    later = Message(role="assistant", content="no")
    found = first_turns([run("a", 1, asked, later), run("a", 0, asked, said, later), run("b", 0, asked)])
    assert list(found) == ["a"]
    assert (found["a"].prompt, found["a"].reply, found["a"].success) == ((asked,), said, True)
