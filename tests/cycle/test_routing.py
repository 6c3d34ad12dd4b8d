"""Several students serve at one time: each request goes to the one whose rows are near, else to the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.cli.root import run_command_line
from agentkd.compiler.write import read_outlines
from agentkd.cycle.html import render_html
from agentkd.cycle.routing import AdapterRouter

ROUTED: dict[str, Any] = {"roles": {"actor": "routed"}, "evaluate": {"arms": ["base", "routed"]}}


@pytest.fixture
def shared(cycled: Path) -> tuple[Path, dict[str, str]]:
    """Return a workspace in which one student was promoted for the weather and one for mayors."""
    names = {}
    with agentkd.Workspace(cycled) as workspace:
        known = workspace.checkpoints()[0]
        folder = cycled / "datasets" / known.dataset_id
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        for number, topic in enumerate(("weather", "mayor"), 5):
            rows = [line for line in lines if json.loads(line)["task_id"].startswith(topic)]
            part = cycled / "datasets" / f"dat-{topic}"
            part.mkdir()
            (part / "train.jsonl").write_text("".join(rows), encoding="utf-8")
            card = workspace.ledger.datasets.get(known.dataset_id)
            card = card.model_copy(update={"id": part.name, "n_train": len(rows), "n_dev": 0})
            workspace.ledger.datasets.add(card, read_outlines(part / "train.jsonl"))
            names[topic] = f"student@{number}"
            moved = cycled / "checkpoints" / names[topic]
            shutil.copytree(cycled / "checkpoints" / known.name, moved)
            workspace.ledger.checkpoints.add(
                known.model_copy(update={"name": moved.name, "dataset_id": part.name, "status": "candidate"})
            )
            workspace.promote(moved.name, force=True)
    return cycled, names


def test_the_nearest_student_acts_and_the_base_where_none_is_near(
    shared: tuple[Path, dict[str, str]],
) -> None:
    folder, names = shared
    with agentkd.Workspace(folder, settings=ROUTED) as workspace:
        agent = workspace.agent()
        for topic, name in names.items():
            run = agent.run(f"What is the {topic} of Minsk?")
            assert run.extras["route"]["checkpoint"] == name
            assert run.model.endswith(f"@{name}")
            assert run.extras["route"]["score"] >= run.extras["route"]["threshold"]
        far = agent.run("Translate this poem into Finnish, please")
        assert far.extras["route"]["checkpoint"] == "base"
        assert far.model == workspace.model("base").name
        assert workspace.trajectories()[-1].extras["route"] == far.extras["route"]
        closed = {"models": {"routing": {"min_score": 1.1}}}
    with agentkd.Workspace(folder, settings={**ROUTED, **closed}) as workspace:
        assert workspace.route("What is the mayor of Minsk?").checkpoint == "base"
    only = {"models": {"routing": {"checkpoints": [names["weather"]], "min_score": 0.0}}}
    with agentkd.Workspace(folder, settings={**ROUTED, **only}) as workspace:
        assert workspace.route("What is the mayor of Minsk?").checkpoint == names["weather"]


def test_a_routed_student_is_shown_what_is_not_in_its_weights(shared: tuple[Path, dict[str, str]]) -> None:
    folder, names = shared
    with agentkd.Workspace(folder, settings=ROUTED) as workspace:
        for memory in workspace.ledger.memories.list():
            workspace.ledger.memories.set_status(memory.id, "retired", "", checkpoint=names["mayor"])
        changed = AdapterRouter(workspace.parts).id
        suite, scope = workspace.parts.suite("jsonl"), workspace.settings.memory.scope
        agent = workspace.parts.agent(
            "actor", suite.environment, recaller=workspace.memory, has_trials=False,
            scope=scope.model_copy(update={"app": "jsonl"}),
        )  # fmt: skip
        tasks = {task.id: task for task in suite.tasks("holdout")}
        runs = {topic: agent.run(tasks[f"{topic}-Hanoi"]) for topic in ("mayor", "weather")}
        assert not runs["mayor"].recalled
        assert runs["weather"].recalled
        workspace.rollback()
        assert AdapterRouter(workspace.parts).id != changed
        assert AdapterRouter(workspace.parts).names == (names["weather"],)


def test_a_held_agent_no_longer_routes_to_what_was_taken_back(shared: tuple[Path, dict[str, str]]) -> None:
    folder, names = shared
    with agentkd.Workspace(folder, settings=ROUTED) as workspace:
        agent = workspace.agent(recall=False)
        asked = "What is the {} of Minsk?"
        acting = [agent.run(asked.format(topic)).extras["route"]["checkpoint"] for topic in names]
        assert acting == list(names.values())
        workspace.rollback()
        mayor = agent.run(asked.format("mayor"))
        assert names["mayor"] not in mayor.extras["route"]["scores"]
        workspace.ledger.checkpoints.set_status(names["weather"], "tainted")
        weather = agent.run(asked.format("weather"))
        assert weather.extras["route"]["checkpoint"] == "base"
        assert weather.model == workspace.model("base").name


def test_the_command_says_which_student_and_why(
    shared: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, names = shared
    asked = ["-q", "-C", str(folder), "checkpoints", "route", "What is the mayor of Minsk?"]
    assert run_command_line([*asked[:3], "--json", *asked[3:]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint"] == names["mayor"]
    assert found["key"].startswith("What is the mayor of")
    assert set(found["scores"]) == set(names.values())
    assert run_command_line(asked) == 0
    said = capsys.readouterr().out
    assert names["mayor"] in said
    assert "near enough" in said


def test_a_run_and_an_evaluation_say_who_acted(shared: tuple[Path, dict[str, str]]) -> None:
    folder, names = shared
    with agentkd.Workspace(folder, settings=ROUTED) as workspace:
        summary = workspace.run(n=8)
        assert sum(summary.routes.values()) == 8
        assert set(summary.routes) <= {*names.values(), "base"}
        assert workspace.run(n=8).routes == summary.routes  # found in the ledger
        arm = workspace.evaluate("", n=6).arm("routed")
        assert arm.model == "routed"
        assert sum(arm.routes.values()) == arm.n == 6
        report = workspace.report()
        evaluation = report.evaluations[0].model_copy(update={"arms": (arm,), "paired": ()})
        page = render_html(report.model_copy(update={"evaluations": (evaluation,)}))
    assert "Requests of <code>routed</code> went to" in page
