"""Trials from end to end: an actor that some memories help, some harm and some leave cold."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.cli import main
from agentkd.cycle.stage import run_stage
from agentkd.cycle.worth import edits_said, lift_said
from agentkd.memory import lift_report
from agentkd.models.scripted import ScriptedModel
from agentkd.protocols import SilentProgress
from agentkd.schema import Memory, MemoryKeys, Message, Outcome, Scope, Trajectory, memory_id
from agentkd.testing import FakeSuite

TOPICS = ("parcel", "invoice", "refund", "address")
EFFECTS = {"helps": 0.4, "harms": -0.4, "idles": 0.0}
APP = Scope(app="fake")
SETTINGS = {
    "memory": {
        "embedder": "hashing", "index": "exact", "min_score": 0.05, "hybrid": False, "k": 3,
        "trial_share": 0.5, "refiners": ["utility-prune"],
    },
    "refiner": {"utility-prune": {"keep": 4, "band": 0.1}},
    "run": {"workers": 1},
}  # fmt: skip


class Lines(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Actor:
    """Does a task with chance 0.5, moved by every memory that it reads."""

    def __init__(self, effects: dict[str, float]) -> None:
        self.effects = effects
        self.n = 0

    def __call__(self, messages: Sequence[Message], tools: Any) -> str:
        self.n += 1
        text = "\n".join(message.content for message in messages)
        chance = 0.5 + sum(effect for word, effect in self.effects.items() if f"it {word}" in text)
        draw = int.from_bytes(hashlib.sha256(str(self.n).encode()).digest()[:4], "big") / 2**32
        return "right" if draw < chance else "wrong"


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def workspace(tmp_path: Path, lines: Lines) -> Iterator[agentkd.Workspace]:
    with agentkd.Workspace(tmp_path / "shop", settings=SETTINGS, progress=lines) as opened:
        yield opened


@pytest.fixture
def planted(workspace: agentkd.Workspace) -> dict[str, Memory]:
    return plant(workspace)


def plant(workspace: agentkd.Workspace, effects: Sequence[str] = tuple(EFFECTS)) -> dict[str, Memory]:
    """Plant one memory of every effect per topic; returns them by id."""
    made = {}
    for topic in TOPICS:
        for effect in effects:
            when = topic  # no word in common with another topic
            text = f"about the {topic} it {effect}"
            memory = Memory(
                id=memory_id("insight", when, text, APP), kind="insight", when_to_use=when, content=text,
                keys=MemoryKeys(situation=f"{when} {effect}"), scope=APP, origin="test",
            )  # fmt: skip
            assert workspace.memory.admit([memory])[0].outcome == "stored"
            made[memory.id] = memory
    return made


def suite_of(n: int) -> FakeSuite:
    asked = [(TOPICS[i % len(TOPICS)], "right") for i in range(n)]
    return FakeSuite({"train": asked, "dev": asked, "holdout": asked})


def go(workspace: agentkd.Workspace, effects: dict[str, float], n: int, run_id: str, **options: Any) -> Any:
    suite = suite_of(n)
    run_stage(
        workspace.parts, suite=suite, tasks=suite.tasks(options.pop("split", "train")), run_id=run_id,
        model=ScriptedModel(Actor(effects)), uses_memory=True, label="run", **options,
    )  # fmt: skip
    return workspace.ledger.trajectories.list(run_id=run_id)


def test_what_harms_leaves_what_idles_leaves_and_what_helps_stays(
    workspace: agentkd.Workspace, planted: dict[str, Memory]
) -> None:
    for number in range(3):
        go(workspace, EFFECTS, 120, f"run-{number}")
        workspace.memory.refine(workspace.parts.refiners(), workspace.parts)
    left: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    standings = workspace.ledger.memories.standings(planted)
    for id_, memory in planted.items():
        effect = memory.content.rpartition(" ")[2]
        if workspace.ledger.memories.get(id_).status == "quarantined":
            left[effect] += 1
            reasons[effect, standings[id_].reason.split(": ")[1]] += 1
    assert left["harms"] == 4
    assert reasons["harms", "harmful"] >= 2  # the others were put out as useless before it was certain
    assert left["helps"] == 0
    assert left["idles"] >= 1
    assert reasons["idles", "harmful"] <= 1
    lifts = {m.memory_id: m.lift for m in lift_report(workspace.ledger, workspace.settings.memory).memories}
    true = {id_: EFFECTS[memory.content.rpartition(" ")[2]] for id_, memory in planted.items()}
    held = sum(lifts[id_].low <= true[id_] <= lifts[id_].high for id_ in planted)
    assert held >= len(planted) - 1
    recalled = {id_ for t in go(workspace, EFFECTS, 12, "later") for id_ in t.recalled}
    assert not recalled & {id_ for id_, memory in planted.items() if memory.content.endswith("harms")}


def test_of_two_memories_that_do_the_same_one_stays(tmp_path: Path) -> None:
    """Neither is missed while the other is shown; what leaves is one of them, and no task is lost by it."""

    def twins(messages: Sequence[Message], tools: Any) -> str:
        return "right" if any("it helps" in message.content for message in messages) else "wrong"

    settings = {**SETTINGS, "refiner": {"utility-prune": {"keep": 0, "band": 0.1}}}
    suite = suite_of(160)
    with agentkd.Workspace(tmp_path / "shop", settings=settings) as workspace:
        made = plant(workspace, ["helps", "helps too"])
        for number in range(5):
            run_stage(
                workspace.parts, suite=suite, tasks=suite.tasks("train"), run_id=f"run-{number}",
                model=ScriptedModel(twins), uses_memory=True, label="run",
            )  # fmt: skip
            workspace.memory.refine(workspace.parts.refiners(), workspace.parts)
        left = [m for m in workspace.ledger.memories.get_many(made) if m.status == "active"]
        assert Counter(m.when_to_use for m in left) == dict.fromkeys(TOPICS, 1)


def test_all_tasks_of_a_run_meet_the_same_ranking(tmp_path: Path) -> None:
    settings = {**SETTINGS, "memory": {**SETTINGS["memory"], "lift_weight": 1.0}}
    suite = suite_of(160)
    with agentkd.Workspace(tmp_path / "shop", settings=settings) as workspace:
        plant(workspace)
        go(workspace, EFFECTS, 24, "first")

        def ranking(run_id: str) -> tuple[str, ...]:
            found = workspace.memory.before_run(run_id).recall(TOPICS[0], 3, scope=APP)
            return tuple(hit.memory.id for hit in found)

        class Watched(Actor):
            def __call__(self, messages: Sequence[Message], tools: Any) -> str:
                during.append(ranking("second"))
                return super().__call__(messages, tools)

        before, during = ranking("second"), list[tuple[str, ...]]()
        turned = {name: -effect for name, effect in EFFECTS.items()}  # what helped harms now
        run_stage(
            workspace.parts, suite=suite, tasks=suite.tasks("train"), run_id="second",
            model=ScriptedModel(Watched(turned)), uses_memory=True, label="run",
        )  # fmt: skip
        assert set(during) == {before}
        assert ranking("third") != before


def test_recall_goes_off_where_it_harms_and_everybody_says_so(
    workspace: agentkd.Workspace, planted: dict[str, Memory], lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.parts.settings = workspace.settings.model_copy(
        update={"memory": workspace.settings.memory.model_copy(update={"trial_all": 1.0})}
    )
    effects = {"helps": -0.15, "harms": -0.15, "idles": -0.15}
    found = go(workspace, effects, 160, "run")
    early, late = found[:60], found[100:]
    assert share_shown(late) < share_shown(early) + 0.15
    assert [line for line in lines.lines if line.startswith("recall is off for app=fake")]
    said, figures = lift_said(workspace.parts, "fake")
    assert said.startswith("; lift of recall -0.")
    assert said.endswith("it is switched off, but on trials")
    assert figures["is_recall_off"] is True
    assert lift_said(workspace.parts, "other") == ("", {})
    folder = str(workspace.root)
    workspace.close()
    assert main(["-C", folder, "memory", "lift", "--scope-by", "app", "--json"]) == 0
    (scope,) = json.loads(capsys.readouterr().out)["scopes"]
    assert (scope["scope"]["app"], scope["is_off"]) == ("fake", True)
    assert scope["lift"]["high"] < 0.05
    assert main(["-C", folder, "memory", "lift", "-n", "3"]) == 0
    table = capsys.readouterr().out
    assert "app=fake" in table
    assert "off, but on trials" in table


def share_shown(trajectories: Sequence[Trajectory]) -> float:
    return sum(bool(t.recalled) for t in trajectories) / len(trajectories)


def test_arms_of_an_evaluation_and_held_out_tasks_see_everything(
    workspace: agentkd.Workspace, planted: dict[str, Memory]
) -> None:
    workspace.parts.settings = workspace.settings.model_copy(
        update={"memory": workspace.settings.memory.model_copy(update={"trial_share": 1.0})}
    )
    assert all(len(t.recalled) == 3 for t in go(workspace, EFFECTS, 8, "arm", split="dev", has_trials=False))
    assert all(len(t.recalled) == 3 for t in go(workspace, EFFECTS, 8, "holdout", split="holdout"))
    assert workspace.ledger.trials.by() == []
    assert all(len(t.recalled) < 3 for t in go(workspace, EFFECTS, 8, "train"))


def test_an_agent_of_the_application_has_trials_too(
    workspace: agentkd.Workspace, planted: dict[str, Memory]
) -> None:
    settings = {
        "memory": {**SETTINGS["memory"], "scope": {"app": "fake"}, "trial_share": 1.0, "trial_all": 1.0}
    }
    root = workspace.root
    workspace.close()
    with agentkd.Workspace(root, settings=settings) as live:
        agent = live.agent(model=ScriptedModel(Actor({})), name="clerk")
        first = agent.run("parcel")
        assert len(first.recalled) == 3  # before anything is graded, trials would measure nothing
        live.ledger.trajectories.grade(first.id, Outcome(success=True))
        before = {id_: live.ledger.memories.get(id_).utility for id_ in planted}
        run = agent.run("parcel")
        recalls = live.ledger.memories.recalls(trajectory_id=run.id)
        assert len(recalls) == 3
        assert all(recall.withheld for recall in recalls)
        assert live.ledger.trials.of(APP).n_open == 1
        assert {id_: live.ledger.memories.get(id_).utility for id_ in planted} == before  # nobody graded it
        live.ledger.trajectories.grade(run.id, Outcome(success=True))
        assert live.ledger.trials.of(APP).n_withheld == 1


def test_a_workspace_buries_what_stayed_in_quarantine(
    workspace: agentkd.Workspace, planted: dict[str, Memory]
) -> None:
    parts = workspace.parts
    one, *_ = planted
    workspace.memory.set_status(one, "quarantined", "utility-prune: harmful")
    assert workspace.memory.refine(parts.refiners(), parts) == []
    tables = {"utility-prune": {"quarantine_days": 0.0}}
    parts.settings = parts.settings.model_copy(update={"refiner": tables})
    said, counts = edits_said(workspace.memory.refine(parts.refiners(), parts))
    assert workspace.ledger.memories.get(one).status == "tombstone"
    assert (said, counts) == ("1 edits: 1 tombstone", {"edits": 1, "tombstone": 1})


def test_the_report_of_a_cycle_says_what_recall_is_worth(cycled: Path) -> None:
    changes = {
        "memory": {"trial_share": 0.6, "trial_all": 0.6},
        "cycle": {"min_new_memories": 10_000},  # go no further than `refine`
    }
    with agentkd.Workspace(cycled, settings=changes) as workspace:
        assert "lift" not in workspace.report().phases[0].output  # the first cycle had nothing to recall
        report = workspace.cycle()
        html = workspace.report_path().read_text(encoding="utf-8")
    ran, _, refined = report.phases
    assert "; lift of recall " in ran.summary
    assert ran.output["lift"]["n_with"] > 0
    assert ran.output["lift"]["n_without"] > 0
    assert refined.summary.startswith("0 edits") or "edits: " in refined.summary
    assert "lift of recall" in html
