"""Trials withhold memories on a share of the tasks, keep to it, record it, and switch recall off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from agent_parts import Build, Recalls, call, memory

from agentkd.agents import Approve, Recalled, RecallOff, Trial, TrialPolicy, open_checkpointer
from agentkd.agents.state import Run
from agentkd.config import MemorySettings
from agentkd.ledger import Ledger
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Hit, Memory, Outcome, Scope, Task, Utility

SHOP = Scope(app="shop")
Policy = Callable[..., TrialPolicy]


@pytest.fixture
def policy(ledger: Ledger) -> Policy:
    def make(
        share: float = 1.0, whole: float = 0.0, *, say: Any = None, seed: int = 0, **settings: Any
    ) -> Any:
        chosen = MemorySettings(trial_share=share, trial_all=whole, **{"k": 2, **settings})
        return TrialPolicy(ledger, chosen, SHOP, seed=seed, say=say)

    return make


@pytest.fixture
def notes(ledger: Ledger) -> list[Memory]:
    made = [memory(text) for text in ("one", "two", "three", "four")]
    ledger.memories.admit(made)
    return made


@pytest.fixture
def done(build: Build, ledger: Ledger, notes: list[Memory]) -> Callable[..., None]:
    """Return a function that lets tasks of the shop happen, graded, with everything shown or withheld."""

    def happen(n: int, *, shown: bool, success: bool | None, start: int = 0) -> None:
        settings = MemorySettings(trial_share=0.0 if shown else 1.0, trial_all=1.0, switch_off=False)
        agent = build(
            lambda messages, tools: "done", recaller=Recalls(notes), scope=SHOP,
            trials=TrialPolicy(ledger, settings, SHOP),
        )  # fmt: skip
        for number in range(n):
            run = agent.run(f"{shown} {success} {start + number}")
            if success is not None:
                ledger.trajectories.grade(run.id, Outcome(success=success))

    return happen


def arms(policy: TrialPolicy, n: int = 400, split: str = "train") -> Counter[str]:
    task = Task(id="t", prompt="?", split=split)
    return Counter(policy.plan(f"tra-{number}", task).arm for number in range(n))


def test_the_share_of_trials_is_that_of_the_settings(policy: Policy) -> None:
    found = arms(policy(0.5, 0.2))
    assert found["shown"] == pytest.approx(200, abs=40)
    assert found["withheld"] == pytest.approx(40, abs=20)
    assert arms(policy(0.0)) == {"shown": 400}
    assert arms(policy(1.0, 1.0)) == {"withheld": 400}


def test_a_plan_depends_on_the_trajectory_and_the_seed_alone(policy: Policy) -> None:
    task = Task(id="t", prompt="?")
    first, again, other = ([p.plan(f"tra-{n}", task).arm for n in range(200)]
                           for p in (policy(0.5), policy(0.5), policy(0.5, seed=1)))  # fmt: skip
    assert first == again
    assert first != other


def test_held_out_tasks_are_never_trials(policy: Policy) -> None:
    for split in ("holdout", "holdout-unseen", "test"):
        assert arms(policy(1.0, 1.0), 50, split) == {"shown": 50}


def test_one_memory_is_withheld_and_the_others_shown(
    build: Build, ledger: Ledger, policy: Policy, notes: list[Memory]
) -> None:
    model = ScriptedModel([call("add", a=1, b=2), "3"])
    agent = build(model, recaller=Recalls(notes), trials=policy(), scope=SHOP)
    events = list(agent.stream("1 + 2"))
    told = [hit.memory.id for event in events if isinstance(event, Recalled) for hit in event.hits]
    (run,) = ledger.trajectories.list()
    recalls = {r.memory_id: r.withheld for r in ledger.memories.recalls(trajectory_id=run.id)}
    (withheld,) = [id_ for id_, is_withheld in recalls.items() if is_withheld]
    assert len(recalls) == 4  # two for either turn
    assert list(run.recalled) == told
    assert withheld not in told
    text = next(note.content for note in notes if note.id == withheld)
    assert not any(f"- {text}\n" in f"{m.content}\n" for asked in model.calls for m in asked.messages)
    assert ledger.trials.of(SHOP).n_open == 1


def test_all_are_withheld_from_the_whole_task(
    build: Build, ledger: Ledger, policy: Policy, notes: list[Memory]
) -> None:
    model = ScriptedModel([call("add", a=1, b=2), "3"])
    recaller = Recalls(notes)
    run = build(model, recaller=recaller, trials=policy(whole=1.0), scope=SHOP).run("1 + 2")
    assert run.recalled == ()
    assert not any("Lessons" in m.content for asked in model.calls for m in asked.messages)
    assert {r.withheld for r in ledger.memories.recalls(trajectory_id=run.id)} == {True}
    assert recaller.asked[1]["exclude"] == {notes[0].id, notes[1].id}  # as if they had been shown
    ledger.trajectories.grade(run.id, Outcome(success=True))
    assert ledger.trials.of(SHOP).n_withheld == 1
    assert ledger.memories.get(notes[0].id).utility == Utility()


def test_every_memory_is_withheld_with_the_same_chance(policy: Policy) -> None:
    """However many were found beside it and whatever is known: else it is withheld from other tasks."""
    trials = policy(k=4)
    for n in (1, 2, 4):
        used = Utility(recalls=50, held_out=9)
        hits = [Hit(memory=memory(f"note {i}"), score=0.5) for i in range(n)]
        hits[0] = hits[0].model_copy(update={"memory": hits[0].memory.model_copy(update={"utility": used})})
        found: Counter[str] = Counter()
        for number in range(1200):
            trial, shown, withheld = trials.divide(Trial(arm="one"), hits, f"tra-{number}")
            assert [*shown, *withheld] == sorted([*shown, *withheld], key=lambda h: h in withheld)
            assert len(withheld) <= 1
            assert trial.held == tuple(h.memory.id for h in withheld)
            found.update(h.memory.content for h in withheld)
        assert len(found) == n
        assert all(count == pytest.approx(300, abs=60) for count in found.values())


def test_every_recall_of_a_run_withholds_with_the_same_chance(
    build: Build, ledger: Ledger, policy: Policy, notes: list[Memory]
) -> None:
    """Else a memory that hard, long tasks find late is never withheld, and seems to do harm."""
    trials = policy()

    def withheld(n: int, start: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for number in range(start, start + n):
            model = ScriptedModel([call("add", a=number, b=2), "3"])
            run = build(model, recaller=Recalls(notes), trials=trials, scope=SHOP).run(f"sum {number}")
            kept = [r for r in ledger.memories.recalls(trajectory_id=run.id) if r.withheld]
            assert len(kept) <= 1
            ledger.trajectories.grade(run.id, Outcome(success=True))
            found.update(r.memory_id for r in kept)
        return found

    withheld(1, 0)  # tells that runs of this scope recall twice
    assert ledger.trials.recalls_per_task(SHOP) == [2]
    found = withheld(100, 1)
    assert [found[note.id] for note in notes] == [pytest.approx(25, abs=16)] * 4


def test_the_chance_is_that_of_what_one_recall_finds(ledger: Ledger) -> None:
    trials = TrialPolicy(ledger, MemorySettings(trial_share=1.0, trial_all=0.0, k=2), SHOP, k=8)
    hits = [Hit(memory=memory(f"note {i}"), score=0.5) for i in range(2)]
    held = sum(bool(trials.divide(Trial(arm="one"), hits, f"tra-{n}")[2]) for n in range(800))
    assert held == pytest.approx(200, abs=50)


def test_a_resumed_run_withholds_what_it_withheld_before(
    build: Build, ledger: Ledger, policy: Policy, notes: list[Memory], tmp_path: Path
) -> None:
    script = [call("add", a=1, b=2), call("add", a=3, b=3), "6"]

    def agent(answers: Sequence[Any], trials: TrialPolicy) -> Any:
        return build(
            answers, recaller=Recalls(notes), trials=trials, scope=SHOP, interrupt_on=["add"],
            checkpointer=open_checkpointer(tmp_path / "runs.db"),
        )  # fmt: skip

    paused = agent(script, policy(whole=1.0)).run("1 + 2 + 3", thread_id="a")
    never = policy(share=0.0)  # another process, with other settings
    again = agent(script[1:], never).resume("a", Approve())
    run = agent(script[2:], never).resume("a", Approve())
    assert paused.call == script[0]
    assert again.call == script[1]
    assert run.recalled == ()
    assert {r.withheld for r in ledger.memories.recalls(trajectory_id=run.id)} == {True}


def test_recall_is_switched_off_and_says_so_but_on_trials(
    build: Build, ledger: Ledger, policy: Policy, notes: list[Memory], done: Callable[..., None]
) -> None:
    done(25, shown=True, success=False)
    done(25, shown=False, success=True)
    lines: list[str] = []
    off = policy(share=0.3, say=lines.append)
    agent = build(lambda messages, tools: "done", recaller=Recalls(notes), trials=off, scope=SHOP)
    seen = Counter()
    for number in range(60):
        kinds = {type(event) for event in agent.stream(f"later {number}")}
        seen[(RecallOff in kinds, Recalled in kinds)] += 1
    assert set(seen) == {(True, False), (False, True)}  # off, or a trial that shows memories
    assert seen[(False, True)] == pytest.approx(18, abs=11)
    assert len(lines) == 1
    assert "recall is off for app=shop" in lines[0]
    assert "0 of 25 with, 25 of 25 without" in lines[0]


def test_recall_comes_back_by_itself_when_it_helps_again(
    ledger: Ledger, policy: Policy, done: Callable[..., None]
) -> None:
    done(25, shown=True, success=False)
    done(25, shown=False, success=True)
    lines: list[str] = []
    off = policy(share=0.3, say=lines.append, trial_window=60)
    assert arms(off)["withheld"] == pytest.approx(280, abs=40)
    done(25, shown=True, success=True, start=100)
    done(25, shown=False, success=False, start=100)
    assert arms(off)["one"] == pytest.approx(120, abs=40)
    assert [line.partition(" for")[0] for line in lines] == ["recall is off", "recall is on again"]


def test_switch_off_can_be_disabled(policy: Policy, done: Callable[..., None]) -> None:
    done(25, shown=True, success=False)
    done(25, shown=False, success=True)
    assert arms(policy(share=0.0, switch_off=False)) == {"shown": 400}


def test_where_nobody_grades_nothing_is_withheld(
    ledger: Ledger, policy: Policy, done: Callable[..., None]
) -> None:
    trials = policy(share=1.0, trial_tasks=10)
    assert arms(trials) == {"one": 400}
    done(10, shown=True, success=None)
    assert arms(trials) == {"shown": 400}
    ledger.trajectories.grade(ledger.trajectories.list()[0].id, Outcome(success=True))
    assert arms(trials) == {"one": 400}


def test_tasks_that_recall_nothing_count_for_nobody(build: Build, ledger: Ledger, policy: Policy) -> None:
    run = build(["hm"], recaller=Recalls([]), trials=policy(), scope=SHOP).run("?")
    ledger.trajectories.grade(run.id, Outcome(success=True))
    assert ledger.trials.by() == []


def test_a_state_of_an_earlier_version_has_no_trial() -> None:
    run = Run(trajectory_id="tra-1", run_id="run-1", thread_id="a", task=Task(id="t", prompt="?"))
    data = run.model_dump(mode="json", exclude={"trial", "withheld"})
    assert Run.model_validate(data).trial is None
