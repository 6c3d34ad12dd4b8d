"""Ceilings are heard between two questions of a phase, and no question is paid for twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.plugins import Component, NoSettings
from agentkd.schema import (
    Diagnosis,
    Evidence,
    Memory,
    Message,
    Outcome,
    Reply,
    Task,
    Trajectory,
    Usage,
    memory_id,
)

from .desk import SETTINGS as DESK
from .desk import Plugin

N_RUNS = 6
NO_SUITE: dict[str, Any] = {
    "cycle": {"suite": "", "min_new_memories": 10_000},
    "roles": {"distiller": "oracle"},
    "distill": {"distillers": ["asks"]},
    "memory": {"refiners": ["rewords"]},
}


class Oracle:
    """A model that counts its questions, with a distiller and a refiner that ask it."""

    name = "oracle"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reply(self, messages: Sequence[Message], tools: Sequence[Any] = (), **sampling: Any) -> Reply:
        self.asked.append(messages[-1].content)
        usage = Usage(prompt_tokens=10, completion_tokens=1, usd=0.25)
        return Reply(text=f"about {messages[-1].content}", model=self.name, usage=usage)

    @agentkd.hookimpl
    def components(self) -> Iterator[Component[Any]]:
        yield Component("model", "oracle", "Counts.", lambda settings, kit: self, NoSettings)
        yield Component("distiller", "asks", "Asks.", lambda settings, kit: Asks(), NoSettings)
        yield Component("refiner", "rewords", "Asks.", lambda settings, kit: Rewords(), NoSettings)


class Asks:
    """Asks one question per run."""

    name = "asks"

    def distill(self, runs: Sequence[Trajectory], corrections: Any, kit: Any) -> Iterator[Memory]:
        model, scope = kit.model("distiller"), kit.settings.memory.scope

        def lesson(run: Trajectory) -> Memory:
            said, when = model.reply([Message(role="user", content=f"distil {run.id}")]).text, f"do {run.id}"
            return Memory(
                id=memory_id("insight", when, said, scope), kind="insight", when_to_use=when, content=said,
                scope=scope, evidence=Evidence(trajectories=(run.id,)),
            )  # fmt: skip

        with ThreadPoolExecutor(2) as pool:
            yield from pool.map(lesson, runs)


class Rewords:
    """Asks one question per memory, and changes none."""

    name = "rewords"

    def refine(self, memories: Sequence[Memory], kit: Any) -> Iterator[Any]:
        for memory in memories:
            kit.model("distiller").reply([Message(role="user", content=f"refine {memory.id}")])
        yield from ()


def lived(workspace: agentkd.Workspace) -> None:
    for number in range(N_RUNS):
        task = Task(id=f"t-{number}", suite="app", split="train", prompt=f"Do {number}")
        run = Trajectory(id=f"run-{number}", run_id="app", task=task, outcome=Outcome(success=True))
        workspace.ledger.trajectories.finish(run)


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


def test_a_ceiling_is_heard_between_two_questions_and_none_is_paid_for_twice(
    new_workspace: Callable[[str], Path], oracle: Oracle
) -> None:
    folder = new_workspace("asking")

    def cycle(**ceilings: Any) -> Any:
        with agentkd.Workspace(folder, settings=NO_SUITE, plugins=[oracle]) as workspace:
            lived(workspace)
            return workspace.cycle(**ceilings)

    def at_two() -> str:
        return "SIGTERM" if len(oracle.asked) >= 2 else ""

    first = cycle(asked=at_two)
    assert first.stopped == "stopped in `distill`: asked to stop (SIGTERM)"
    assert [phase.status for phase in first.phases] == ["done", "stopped"]
    assert 2 <= len(oracle.asked) <= 3  # one may be in flight
    stops = []
    for _ in range(4 * N_RUNS):  # every call answers one question more, however low a ceiling is
        report = cycle(max_usd=0.1)
        if not report.stopped:
            break
        assert ": the ceiling of $0.1 is met with $" in report.stopped
        stops.append(report.stopped.partition(":")[0])
    assert report.number == 1
    assert not report.stopped
    assert {"stopped in `distill`", "stopped in `refine`"} <= set(stops)
    assert set(Counter(oracle.asked).values()) == {1}
    assert len(oracle.asked) == 2 * N_RUNS
    assert report.counts["memories"] == N_RUNS


def test_no_secret_of_an_answer_is_on_disk(
    new_workspace: Callable[[str], Path], oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, key = new_workspace("leaky"), "ghp_" + "Zq7" * 12
    plain = oracle.reply

    def leaky(messages: Sequence[Message], tools: Sequence[Any] = (), **sampling: Any) -> Reply:
        reply = plain(messages, tools, **sampling)
        return reply.model_copy(update={"text": f"{reply.text}, with {key}"})

    monkeypatch.setattr(oracle, "reply", leaky)
    with agentkd.Workspace(folder, settings=NO_SUITE, plugins=[oracle]) as workspace:
        lived(workspace)
        assert workspace.cycle(max_usd=0.1).stopped
        kept = [file for file in folder.rglob("ask-*") if b"[redacted:" in file.read_bytes()]
        assert kept  # of what was asked before the ceiling
        assert not [file for file in kept if key.encode() in file.read_bytes()]
        while workspace.cycle(max_usd=0.1).stopped:
            pass
        assert "[redacted:" in workspace.ledger.memories.list()[0].content
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in files if file.name.startswith(("ask-", "dia-"))]  # not needed any more
    assert not [file for file in files if key.encode() in file.read_bytes()]


def test_whoever_stopped_between_two_evaluators_goes_on_behind_the_last_one(
    new_workspace: Callable[[str], Path],
) -> None:
    asked: list[str] = []

    class Looks:
        def __init__(self, name: str) -> None:
            self.name = name

        def evaluate(self, comparison: Any, kit: Any) -> Diagnosis:
            asked.append(self.name)
            return Diagnosis(evaluator=self.name, metrics={"n": float(len(asked))})

    class Offers:
        @agentkd.hookimpl
        def components(self) -> Iterator[Component[Any]]:
            for name in ("one", "two"):
                yield Component(
                    "evaluator", name, "Looks.", lambda s, kit, name=name: Looks(name), NoSettings
                )

    settings = {**DESK, "evaluate": {**DESK["evaluate"], "evaluators": ["one", "two"]}}
    plugins = [Plugin(), Offers()]
    with agentkd.Workspace(new_workspace("looks"), settings=settings, plugins=plugins) as workspace:
        report = workspace.cycle(asked=lambda: "a test" if asked else "")
        assert report.stopped == "stopped in `evaluate`: asked to stop (a test)"
        assert asked == ["one"]
        report = workspace.cycle()
        assert asked == ["one", "two"]
        found = report.evaluations[0].diagnoses
        assert [(each.evaluator, each.metrics["n"]) for each in found] == [("one", 1.0), ("two", 2.0)]
