"""Revoke: what was made from it is tainted and masked, and a new student is trained without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import agentkd
from agentkd.config import Settings
from agentkd.cycle.aside import Aside
from agentkd.cycle.journal import open_plan
from agentkd.cycle.training import train_job
from agentkd.cycle.unlearnt import compare_behaviour, old_behaviour, shows, with_check
from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.graph import AgentkdStore
from agentkd.interop import memories_as_skill
from agentkd.memory import UtilityPruneRefiner
from agentkd.protocols import Kit
from agentkd.schema import (
    Evidence,
    Memory,
    MemoryEdit,
    Message,
    Scope,
    Step,
    Task,
    ToolCall,
    Trajectory,
    Verdict,
    memory_id,
)
from agentkd.skills import write_skill
from agentkd.tools import ToolBox, read_skill

from .desk import N_TRAIN

SCOPE = Scope(app="desk")
BLUE = "Stamp the blue form"


def case(desk: agentkd.Workspace, request: str = BLUE) -> str:
    return next(m.id for m in desk.ledger.memories.list(kinds=["case"]) if m.when_to_use == request)


def hits(desk: agentkd.Workspace, checkpoint: str, request: str = BLUE) -> list[str]:
    found = desk.memory.recall(request, 4, scope=SCOPE, checkpoint=checkpoint)
    return [hit.memory.counters or hit.memory.id for hit in found]


def test_a_revoked_memory_taints_what_was_made_and_is_masked_while_that_serves(
    desk: agentkd.Workspace,
) -> None:
    memory, student = case(desk), desk.report().checkpoint
    before = desk.lineage(memory)["up"]
    assert {"row", "dataset", "checkpoint", "evaluation", "cycle"} <= before.counts().keys()
    done = desk.revoke(memory, reason="the form is gone", instead="Send it back.")
    assert done.memories == (memory,)
    assert done.checkpoints == (student,)
    assert done.reached == {k: n for k, n in before.counts().items() if k != "memory"}
    assert done.serving == student
    assert "serves on" in done.said
    dataset = desk.datasets()[0].id
    assert desk.ledger.revocations.datasets() == {dataset: len(before.ids("row"))}
    with pytest.raises(DataError, match="revoked since"):
        train_job(desk.parts, dataset, "nowhere")
    assert hits(desk, student)[0] == memory  # the counter-memory comes first ...
    counter = desk.memory.recall(BLUE, 4, scope=SCOPE, checkpoint=student)[0].memory
    assert counter.content.endswith("Send it back.")
    assert counter.id in {node.id for node in desk.lineage(memory)["up"].nodes}
    desk.rollback()
    assert memory not in hits(desk, "base")  # ... and leaves with the tainted student
    desk.promote(student, force=True)
    assert hits(desk, student)[0] == memory


def test_the_policy_may_roll_back_at_once(desk: agentkd.Workspace) -> None:
    with_policy(desk, "rollback")
    done = desk.revoke(case(desk), reason="wrong")
    assert done.serving == "base"
    assert "taken back" in done.said
    assert desk.parts.resolve("student") == "base"


def with_policy(desk: agentkd.Workspace, policy: str) -> None:
    """Set `[revoke] serving`."""
    changed = {**desk.settings.model_dump(), "revoke": {"serving": policy}}
    desk.parts.settings = Settings.model_validate(changed)


def test_near_what_was_revoked_the_base_acts_in_the_place_of_the_student(desk: agentkd.Workspace) -> None:
    memory, student = case(desk), desk.report().checkpoint
    rows = desk.ledger.datasets.rows(desk.datasets()[0].id, "train")
    agent = desk.agent()
    assert "route" not in agent.run(BLUE).extras
    desk.revoke(memory, reason="the form is gone")
    run = agent.run(f"{BLUE} once more")
    assert run.model == desk.model("base").name
    route = run.extras["route"]
    assert (route["aside"], route["checkpoint"]) == (student, "base")
    (row,) = [row for row in rows if memory in row.provenance.memories]
    assert route["key"] in {memory, row.provenance.trajectories[0]}
    assert route["score"] >= route["threshold"]
    ran = desk.parts.agent("student", desk.parts.suite("desk").environment).run(BLUE)
    assert ran.extras["route"]["aside"] == student  # without memories, too: it is in the weights
    tainted = desk.ledger.revocations.rows(desk.datasets()[0].id)
    clean = [row.provenance.trajectories[0] for row in rows if row.example_id not in tainted]
    others = {run.task.prompt for run in desk.parts.trajectories(clean)}
    assert len(others) > 5
    for request in others:
        assert agent.run(request).model.endswith(f"@{student}")  # what it learnt besides is its own
    assert agent.run("Translate this poem, please").model.endswith(f"@{student}")
    pinned = desk.agent(model=f"agentkd/{student}")
    assert pinned.run(BLUE).model.endswith(f"@{student}")  # it was asked for by its name
    with_policy(desk, "keep")
    assert agent.run(BLUE).model.endswith(f"@{student}")


def test_what_else_the_same_runs_taught_is_named(desk: agentkd.Workspace) -> None:
    one = desk.ledger.memories.get(case(desk))
    rule, both = (
        Memory(
            id=memory_id("parameter", words, words, SCOPE), kind="parameter", when_to_use=words,
            content=words, scope=SCOPE, evidence=Evidence(trajectories=runs), status="active",
        )
        for words, runs in (
            ("the same in other words", one.evidence.trajectories),
            ("it rests on more", (*one.evidence.trajectories, desk.trajectories()[-1].id)),
        )
    )  # fmt: skip
    desk.ledger.memories.admit([rule, both])
    done = desk.revoke(one.id, reason="the form is gone")
    assert rule.id in done.siblings
    assert both.id not in done.siblings
    assert desk.revoke(rule.id, reason="so is this").siblings == ()


def test_it_stands_aside_in_the_tasks_of_a_suite_too(desk: agentkd.Workspace) -> None:
    student = desk.report().checkpoint
    desk.revoke(case(desk), reason="the form is gone")
    before = {run.id for run in desk.trajectories()}
    assert desk.run().routes["base"] >= 1
    (run,) = [run for run in desk.trajectories() if run.id not in before and run.task.prompt == BLUE]
    assert run.extras["route"]["aside"] == student
    pinned = desk.run(model=f"agentkd/{student}")
    assert pinned.routes == {}


def test_a_revoked_run_without_a_memory_is_kept_from_the_student_too(desk: agentkd.Workspace) -> None:
    student, rows = desk.report().checkpoint, desk.ledger.datasets.rows(desk.datasets()[0].id, "train")
    run = desk.parts.trajectories([rows[0].provenance.trajectories[0]])[0]
    desk.revoke(run.id, reason="hers")
    for memory in desk.ledger.memories.list("active", kinds=["constraint"], checkpoint=student):
        desk.ledger.memories.set_status(memory.id, "quarantined", "as if there were none", checkpoint=student)
    route = desk.agent().run(run.task.prompt).extras["route"]
    assert (route["aside"], route["key"]) == (student, run.id)


def test_where_nothing_says_what_was_revoked_the_base_acts_everywhere(
    desk: agentkd.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.revoke(case(desk), reason="the form is gone")
    monkeypatch.setattr(Aside, "_requests", lambda *_: ({}, []))
    assert desk.agent().run("Translate this poem, please").extras["route"]["aside"]


def test_a_clean_student_stands_aside_nowhere(desk: agentkd.Workspace) -> None:
    agent, memory = desk.agent(), case(desk)
    desk.revoke(memory, reason="the form is gone")
    assert agent.run(BLUE).extras["route"]["aside"]
    report = desk.cycle(recompile=True)
    desk.promote(report.checkpoint, force=True)
    assert "route" not in agent.run(BLUE).extras


def test_a_revoked_memory_that_is_all_a_student_learnt_is_kept_from_it(desk: agentkd.Workspace) -> None:
    memories = [m.id for m in desk.ledger.memories.list(kinds=["case"])]
    desk.revoke(*memories, reason="all of it")
    assert desk.agent().run(BLUE).extras["route"]["aside"]


@pytest.mark.parametrize("model", ["student", "actor"])
def test_an_agent_that_is_held_follows_what_serves(desk: agentkd.Workspace, model: str) -> None:
    student = desk.report().checkpoint
    agent = desk.agent(model=model, recall=False)
    assert agent.run(BLUE).model.endswith(f"@{student}")
    desk.rollback()
    assert agent.run(BLUE).model == desk.model("base").name
    desk.promote(student, force=True)
    assert agent.run(BLUE).model.endswith(f"@{student}")
    pinned = desk.agent(model=f"agentkd/{student}", recall=False)
    with_policy(desk, "rollback")
    desk.revoke(case(desk), reason="wrong")
    assert agent.run(BLUE).model == desk.model("base").name
    assert pinned.run(BLUE).model.endswith(f"@{student}")  # it was asked for by its name


def test_a_skill_that_teaches_what_was_revoked_is_closed_at_once(desk: agentkd.Workspace) -> None:
    memories = desk.ledger.memories
    one, other, part, *_ = memories.list(kinds=["case"])
    for name, memory in {"one": one, "other": other, "part": part}.items():
        write_skill(memories_as_skill([memory], desk.root / "skills" / name, f"Open it for {name}."))
    library = desk.parts.skills()
    tool, views = read_skill(library), desk.parts.views()  # those of an agent that is held

    def listed() -> list[str]:
        prompt = views.prompt(Task(id="t", prompt="?"), tools=[tool.spec])[0].content
        return [name for name in ("one", "other", "part") if f"Open it for {name}." in prompt]

    def opened(name: str) -> str:
        result = ToolBox([tool]).call(ToolCall(name="read_skill", arguments={"name": name}))
        return result.content or result.error

    assert listed() == ["one", "other", "part"]
    taught = one.content.splitlines()[-1]
    assert taught in opened("one")
    done = desk.revoke(one.id, reason="wrong")
    assert done.skills == ("one",)
    assert "closed to agents: `one` (`agentkd skills export --prune`" in done.said
    assert listed() == ["other", "part"]
    assert "is closed" in opened("one")
    assert taught not in opened("one")
    assert desk.parts.skills().names == ["other", "part"]
    run = next(t.id for t in desk.trajectories(split="train") if t.id not in other.evidence.trajectories)
    memories.corroborate(other.id, Evidence(trajectories=(run,)))
    assert desk.revoke(other.evidence.trajectories[0], reason="asked for").quarantined == (other.id,)
    assert listed() == ["part"]
    memories.activate(other.id, "a person read it")
    assert listed() == ["other", "part"]


def test_a_skill_of_a_union_is_closed_with_each_of_its_parts(desk: agentkd.Workspace) -> None:
    first, second, third, *_ = desk.ledger.memories.list(kinds=["case"])
    joined = first.model_copy(update={"id": "mem-joined", "content": "Stamp it."})

    class Joins:
        name = "joins"

        def refine(self, known: Sequence[Memory], kit: Kit) -> list[MemoryEdit]:
            return [MemoryEdit(ids=(first.id, second.id), replacement=joined, reason="alike")]

    desk.memory.refine([Joins()], desk.parts)
    (union,) = [memory for memory in desk.ledger.memories.list() if memory.content == "Stamp it."]
    for name, memory in {"union": union, "part": second, "third": third}.items():
        write_skill(memories_as_skill([memory], desk.root / "skills" / name, f"Open it for {name}."))
    assert desk.revoke(first.id, reason="wrong").skills == ("union",)
    assert desk.parts.skills().names == ["part", "third"]


def test_a_trajectory_takes_its_memories_along_and_is_never_learnt_from_again(
    desk: agentkd.Workspace,
) -> None:
    memory = desk.ledger.memories.get(case(desk))
    run = memory.evidence.trajectories[0]
    done = desk.revoke(run, reason="asked for")
    assert done.trajectories == (run,)
    assert memory.id in done.memories
    counter = desk.memory.recall(BLUE, 4, scope=SCOPE, checkpoint=done.serving)[0].memory
    assert counter.counters == memory.id
    assert "stamp(" not in counter.content
    assert "blue" not in counter.content  # it says nothing of what was revoked
    card = desk.compile()
    rows = desk.ledger.datasets.rows(card.id)
    assert all(run not in row.provenance.trajectories for row in rows)
    assert card.dropped["its trajectory was revoked"] == 1
    assert desk.distill().summary.startswith("11 trajectories and 11 corrections")
    assert desk.ledger.memories.get(memory.id).status == "revoked"
    assert desk.revoke(run, reason="again").trajectories == ()


def test_no_refiner_brings_back_what_a_revocation_put_away(desk: agentkd.Workspace) -> None:
    memories, runs = desk.ledger.memories, [t.id for t in desk.trajectories(split="train")]
    doubtful, idle, waiting = memories.list(kinds=["case"])[:3]
    own = [memory.evidence.trajectories[0] for memory in (doubtful, waiting)]
    first, second, *_ = [run for run in runs if run not in {*own, idle.evidence.trajectories[0]}]
    for memory in (doubtful, waiting):
        memories.corroborate(memory.id, Evidence(trajectories=(first,)))
    memories.set_status(idle.id, "quarantined", "utility-prune: no room")
    memories.set_status(
        waiting.id, "quarantined", "utility-prune: no room"
    )  # already away when its run is revoked
    assert set(desk.revoke(own[0], reason="asked for").quarantined) == {doubtful.id}
    assert set(desk.revoke(own[1], reason="asked for").quarantined) == {waiting.id}
    for memory in (doubtful, idle, waiting):
        memories.corroborate(memory.id, Evidence(trajectories=(second,)))
    refiner = UtilityPruneRefiner()
    edits = desk.memory.refine([refiner], desk.parts)
    assert [(edit.memory_id, edit.status) for edit in edits] == [(idle.id, "active")]
    joined = doubtful.model_copy(update={"id": "mem-joined", "content": "Stamp it."})

    class Joins:
        name = "joins"

        def refine(self, known: Sequence[Memory], kit: Kit) -> list[MemoryEdit]:
            return [MemoryEdit(ids=(doubtful.id, idle.id), replacement=joined, reason="alike")]

    assert desk.memory.refine([Joins()], desk.parts) == []
    memories.activate(doubtful.id, "a person read it")
    assert memories.get(doubtful.id).status == "active"
    assert not memories.standings([doubtful.id])[doubtful.id].is_doubtful


def test_a_users_data_is_revoked_by_scope(tmp_path: Path) -> None:
    def learn(user: str) -> str:
        settings = {
            "memory": {"embedder": "hashing", "index": "exact", "scope": {"user": user}},
            "roles": {"actor": "scripted:clerk"}, "model": {"scripted": {"answers": ["It is late."]}},
        }  # fmt: skip
        with agentkd.Workspace(tmp_path, settings=settings) as shop:
            run = shop.agent([]).run(f"Where is the parcel of {user}?")
            shop.correct(run, "Ask for the number.", answer="What is the number?")
            shop.distill(run.run_id)
            return run.id

    ann, _ = learn("ann"), learn("bob")
    with agentkd.Workspace(tmp_path, settings={"memory": {"embedder": "hashing", "index": "exact"}}) as shop:
        with pytest.raises(ConfigError, match="everything"):
            shop.revoke(reason="?", scope=Scope())
        with pytest.raises(NotFoundError):
            shop.revoke("mem-unknown", reason="?")
        done = shop.revoke(reason="asked for", scope=Scope(user="ann"))
        assert done.trajectories == (ann,)
        assert done.memories
        left = {m.scope.user: m.status for m in shop.ledger.memories.list()}
        assert left == {"ann": "revoked", "bob": "active"}
        assert shop.revoke(reason="again", scope=Scope(user="ann")).memories == ()  # known, and gone already


def test_a_scope_that_nobody_has_is_refused_and_like_names_are_told(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings={"memory": {"embedder": "hashing", "index": "exact"}}) as shop:
        AgentkdStore(shop).put(("users", "ann"), "tea", {"content": "Green, without sugar."})
        with pytest.raises(NotFoundError, match=r"of user `ann`: nothing was revoked \(.*is `users.ann`"):
            shop.revoke(reason="asked for", scope=Scope(user="ann"))
        with pytest.raises(NotFoundError, match=r"did you mean `--user users.ann`\?"):
            shop.revoke(reason="asked for", scope=Scope(user="user.ann"))
        with pytest.raises(NotFoundError, match=r"user `users.ann`.*: .*memory list"):
            shop.revoke(reason="asked for", scope=Scope(user="users.ann", app="bank"))
        AgentkdStore(shop).put(("ann",), "tea", {"content": "Black."})
        assert shop.revoke(reason="asked for", scope=Scope(user="ann")).alike == ("users.ann",)
        left = {m.scope.user: m.status for m in shop.ledger.memories.list()}
        assert left == {"users.ann": "active", "ann": "revoked"}
        AgentkdStore(shop).put(("users", "ann", "notes"), "tea", {"content": "Green, and hot."})
        AgentkdStore(shop).put(("users", "anna"), "tea", {"content": "White."})
        assert shop.revoke(reason="all", scope=Scope(user="users.ann")).alike == ("users.ann.notes",)
        assert shop.revoke(reason="all", scope=Scope(user="users.ann.notes")).alike == ()


def test_recompiling_trains_from_base_without_it_and_asks_whether_it_is_gone(desk: agentkd.Workspace) -> None:
    memory, old = case(desk), desk.report().checkpoint
    desk.revoke(memory, reason="the form is gone")
    report = desk.cycle(recompile=True)
    assert [phase.name for phase in report.phases][:2] == ["compile", "train"]
    assert report.phases[-1].name == "retire"
    assert report.checkpoint != old
    new = desk.parts.checkpoint(report.checkpoint)
    assert new.parent == ""
    assert memory not in desk.lineage(new.name)["down"].ids("memory")
    assert report.verdict is not None
    assert report.verdict.numbers["revoked_n"] == 1.0
    assert report.verdict.against == "base"  # a tainted student is no rival: it has to go
    assert report.verdict.promote, report.verdict.reasons
    assert report.serving == new.name
    assert memory not in hits(desk, new.name)
    assert desk.ledger.revocations.rows(new.dataset_id) == frozenset()
    assert len(desk.ledger.datasets.rows(new.dataset_id)) == N_TRAIN - 1
    assert desk.recompute().differing == ()


def test_a_recompiling_cycle_that_was_stopped_goes_on_with_whoever_calls_next(
    desk: agentkd.Workspace,
) -> None:
    desk.revoke(case(desk), reason="the form is gone")
    first = desk.cycle(recompile=True, asked=lambda: "a test")
    assert (first.number, first.stopped != "") == (2, True)
    assert desk.when_due().reason == "cycle-2 was cut off and goes on"
    second = desk.cycle_if_due(asked=lambda: "a test" if len(desk.datasets()) > 1 else "")
    assert second is not None
    assert (second.number, [phase.name for phase in second.phases]) == (2, ["compile"])
    assert open_plan(desk.parts).recompile


def test_who_asks_to_recompile_gets_no_ordinary_cycle(desk: agentkd.Workspace) -> None:
    assert desk.cycle(asked=lambda: "a test").number == 2
    plan = open_plan(desk.parts, recompile=True)
    assert (plan.number, plan.recompile) == (3, True)


def test_the_old_behaviour_is_read_from_the_rows_that_taught_it(desk: agentkd.Workspace) -> None:
    assert old_behaviour(desk.parts) == ([], {})
    desk.revoke(case(desk), reason="the form is gone")
    (task,), behaviour = old_behaviour(desk.parts)
    assert task.prompt == BLUE
    assert behaviour["desk", task.id] == {json.dumps([["stamp", {"form": "blue"}]], separators=(",", ":"))}


def test_lineage_reaches_skills_exports_and_signals(desk: agentkd.Workspace) -> None:
    from agentkd.hf import Export
    from agentkd.train.artefact import RowSignals, SignalCache, row_key
    from agentkd.train.rows import load_dataset

    memory = desk.ledger.memories.get(case(desk))
    write_skill(memories_as_skill([memory], desk.root / "skills" / "forms", "When a form comes."))
    student = desk.report().checkpoint
    export = Export(
        checkpoint=student, shape="gguf", dtype="q8_0", out="/out", files={}, n_bytes=1, parity=()
    )
    (desk.root / "exports.jsonl").write_text(export.model_dump_json() + "\n", encoding="utf-8")
    train = desk.settings.train.model_copy(update={"objective": {"forward-kl": {}}})
    desk.parts.settings = desk.settings.model_copy(update={"train": train})
    dataset = load_dataset(desk.root / "datasets" / desk.compile().id, 10_000)
    cache = SignalCache(desk.root / "signals", teacher_id="t", template_hash="h", top_k=1)
    one = np.zeros((1,), dtype=np.float32)
    signals = RowSignals(
        ids=np.zeros((1, 1), np.int32), log_probs=np.zeros((1, 1), np.float16),
        tail=one.astype(np.float16), chosen=one, ends=np.ones((1,), np.int32),
    )  # fmt: skip
    cache.write({row_key(row.teacher): signals for row in dataset.train if row.teacher is not None})
    up = desk.lineage(memory.id)["up"]
    assert up.ids("skill") == ("forms",)
    assert up.ids("export") == ("/out",)
    assert up.ids("signals") == (cache.folder.name,)
    assert memory.id in desk.lineage(cache.folder.name)["down"].ids("memory")
    assert memory.id in desk.lineage("cycle-1")["down"].ids("memory")


def said(form: str, *, success: bool = False) -> Trajectory:
    call = ToolCall(name="stamp", arguments={"form": form})
    step = Step(index=0, reply=Message(role="assistant", tool_calls=(call,)), accepted_calls=(call,))
    return Trajectory(id=form, run_id="r", task=Task(id="t", prompt="p"), steps=(step,))


@pytest.mark.parametrize(("n_shown", "passes"), [(0, True), (2, False), (10, False)])
def test_back_at_base_level_is_not_merely_lower(n_shown: int, passes: bool) -> None:
    keys = [("desk", str(number)) for number in range(12)]
    old = frozenset({json.dumps([["stamp", {"form": "blue"}]], separators=(",", ":"))})
    assert shows(said("blue"), old)
    ours = {key: said("blue" if number < n_shown else "red") for number, key in enumerate(keys)}
    base = {key: said("red") for key in keys}
    check = compare_behaviour(Settings(), dict.fromkeys(keys, old), ours, base)
    assert check is not None
    assert check.passed is passes
    yes = Verdict(promote=True, checkpoint="s", against="base")
    assert with_check(yes, check).promote is passes
    assert with_check(yes, None) == yes
