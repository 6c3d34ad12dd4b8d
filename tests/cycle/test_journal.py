"""What is done is not done again; a changed setting costs only the phases that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.cycle.evaluation import memory_snapshot
from agentkd.cycle.journal import journalled, open_plan
from agentkd.cycle.loop import phase_settings
from agentkd.cycle.stage import StageResult
from agentkd.cycle.training import decisive_settings
from agentkd.errors import PluginError
from agentkd.schema import Checkpoint, Memory, content_id, now
from agentkd.testing import FixedClock, tiny_student


class Breaks:
    """A plugin that stops the cycle right after one of its phases."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    @agentkd.hookimpl
    def after_phase(self, report):  # type: ignore[no-untyped-def]
        if report.name == self.phase:
            raise RuntimeError("stop here")


def test_a_cut_off_cycle_goes_on_and_redoes_only_what_reads_a_changed_setting(
    new_workspace: Callable[[str], Path],
) -> None:
    folder = new_workspace("cut")
    with (
        agentkd.Workspace(folder, plugins=[Breaks("train")]) as workspace,
        pytest.raises(PluginError, match="Breaks"),
    ):
        workspace.cycle()
    with agentkd.Workspace(folder, settings={"gate": {"min_tasks": 1000}}) as workspace:
        n_runs = workspace.ledger.counts()["trajectories"]
        trained = workspace.checkpoints()
        report = workspace.cycle()
        assert report.number == 1
        assert workspace.checkpoints()[0].name == trained[0].name
        assert workspace.ledger.counts()["trajectories"] == n_runs + 4 * 12
        assert report.verdict is not None
        assert "min_tasks" in report.verdict.flags


def test_a_cycle_that_spans_midnight_redoes_nothing_and_a_quiet_day_trains_nothing(
    new_workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, clock = new_workspace("midnight"), FixedClock(now())
    monkeypatch.setattr("agentkd.cycle.journal.now", clock)
    settings = {"train": {"epochs": 1}, "cycle": {"min_new_memories": 0}}
    with (
        agentkd.Workspace(folder, plugins=[Breaks("train")], settings=settings) as workspace,
        pytest.raises(PluginError, match="Breaks"),
    ):
        workspace.cycle()

    def keys(names: tuple[str, ...]) -> list[str]:
        with agentkd.Workspace(folder, settings=settings) as workspace:
            report = workspace.cycle()
            return [phase.key for phase in report.phases if phase.name in names]

    with agentkd.Workspace(folder, settings=settings) as workspace:
        done = [phase.key for phase in workspace.ledger.cycles.phases("cycle-1")][1:]
    clock.tick(86400)
    resumed = keys(("run", "distill", "refine", "compile", "train"))
    assert resumed == done
    quiet = [keys(("distill", "refine", "compile", "train")) for _ in range(2)]
    clock.tick(86400)
    quiet.append(keys(("distill", "refine", "compile", "train")))
    assert quiet[1][1] != quiet[2][1]
    assert [quiet[1][n] for n in (0, 2, 3)] == [quiet[2][n] for n in (0, 2, 3)]


def test_a_cycle_for_another_split_gives_the_unfinished_one_up(new_workspace: Callable[[str], Path]) -> None:
    folder = new_workspace("other")
    with (
        agentkd.Workspace(folder, plugins=[Breaks("run")]) as workspace,
        pytest.raises(PluginError),
    ):
        workspace.cycle()
    with agentkd.Workspace(folder, settings={"cycle": {"n": 10}}) as workspace:
        assert workspace.cycle().number == 2


def test_teacher_signals_reach_the_training_of_a_cycle(new_workspace: Callable[[str], Path]) -> None:
    settings = {
        "train": {"objective": {"sft": {"weight": 0.5}, "self-context": {"top_k": 8}}},
        "compile": {"memory_share": 0.5},
    }
    with agentkd.Workspace(new_workspace("teacher"), settings=settings) as workspace:
        report = workspace.cycle()
        metrics = workspace.root / "checkpoints" / report.checkpoint / "metrics.jsonl"
        assert '"self-context"' in metrics.read_text(encoding="utf-8")
        assert list((workspace.root / "signals").iterdir())


def test_what_a_recall_depends_on_decides_whether_a_phase_is_done_again(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"memory": {"embedder": "hashing", "index": "exact"}, "plugins": {"auto": False}}
    others = [
        {"recaller": {"llm-rerank": {"candidates": 5}}},
        {"roles": {"recaller": "scripted:other"}},
        {"embedder": {"hashing": {"dimensions": 64}}},
    ]

    def keys(settings: dict[str, Any]) -> list[str]:
        with agentkd.Workspace(tmp_path, settings=settings) as workspace:
            read = phase_settings(workspace.parts)
            return [content_id("key", read[name]) for name in ("run", "evaluate", "train")]

    run, evaluate, train = keys(plain)
    for other in others:
        changed = keys({**plain, **other})
        assert changed[0] != run
        assert changed[1] != evaluate
        assert changed[2] == train


def test_only_the_phases_that_read_a_setting_are_done_again(tmp_path: Path) -> None:
    names = ("run", "distill", "refine", "compile", "train", "evaluate", "promote")

    def keys(**settings: Any) -> dict[str, str]:
        settings = {"train": {"objective": {"selective": {"objective": "sft"}}}, **settings}
        with agentkd.Workspace(tmp_path, settings={"plugins": {"auto": False}, **settings}) as workspace:
            read = phase_settings(workspace.parts)
            return {name: content_id("key", read[name]) for name in names}

    def changed(**settings: Any) -> set[str]:
        now = keys(**settings)
        return {name for name in names if now[name] != plain[name]}

    plain = keys()
    assert changed(trust={"gate": False}) == {"run", "distill", "compile", "evaluate"}
    assert changed(agent={"max_steps": 3}) == {"run", "compile", "evaluate"}
    assert changed(gate={"margin": 0.1, "near_copy": 0.9, "anchors": False}) == {"promote"}
    assert changed(gate={"probes": 7}) == {"evaluate", "promote"}
    assert changed(compile={"role_weights": {"observation": 0.1}}) == {"compile"}
    taught = {"objective": {"selective": {"objective": "forward-kl"}}}  # now a teacher's view is needed
    assert changed(train=taught) == {"compile", "train"}
    assert changed(train={"objective": {"selective": {"objective": "sft", "keep": 0.7}}}) == {"train"}

    limits = {
        "max_memory": 3.5,
        "gradient_checkpointing": "on",
        "sharding": "fsdp",
        "save_every_seconds": 5,
        "keep_last": 3,
        "loss_rows_logged": 10,
    }
    same = {"objective": {"selective": {"objective": "sft"}}}
    assert changed(train=same | limits, trainer={"lora": {"threads": 1, "processes": 2}}) == set()
    assert changed(train=same | {"tokens_per_step": 512}) == {"train"}

    texts = tmp_path / "texts.jsonl"
    own = {"objective": {"selective": {"objective": "sft"}}, "anchor": {"path": str(texts)}}
    texts.write_text('{"text": "one"}')
    before = keys(train=own)
    texts.write_text('{"text": "two"}')
    assert keys(train=own)["train"] != before["train"]
    reference = {"objective": {"dpo": {"reference": str(tmp_path)}}}
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    before = keys(train=reference)
    weights.write_bytes(b"two")
    assert keys(train=reference)["train"] != before["train"]
    teacher = tmp_path / "teacher"
    named = {"objective": {"forward-kl": {}}, "teacher": tiny_student(teacher)}
    before = keys(train=named)
    tiny_student(teacher, seed=1)
    assert keys(train=named)["train"] != before["train"]


def test_a_training_goes_on_under_other_limits_of_memory_and_saves(cycled: Path) -> None:
    def trained(**changes: Any) -> Checkpoint:
        with agentkd.Workspace(cycled, settings={"train": {"epochs": 1, **changes}}) as workspace:
            return workspace.train()

    first = trained()
    limits = {"max_memory": 4.0, "save_every_seconds": 9.0, "keep_last": 1, "loss_rows_logged": 3}
    assert trained(**limits) == first, "it is found under its name, and not trained again"
    assert trained(tokens_per_step=256).name != first.name


def test_the_keys_of_trainings_under_default_limits_are_those_of_before(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings={"plugins": {"auto": False}}) as workspace:
        before = [workspace.settings.train.model_dump(exclude={"candidates"}), workspace.settings.trainer]
        assert content_id("key", phase_settings(workspace.parts)["train"]) == content_id("key", before)
        train, _ = decisive_settings(workspace.parts)
        assert content_id("key", train) == content_id("key", workspace.settings.train)


def test_a_training_is_done_again_where_a_file_that_it_reads_changed(cycled: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "What was known before."}')
    settings = {"train": {"epochs": 1, "anchor": {"weight": 0.5, "path": str(texts)}}}
    with agentkd.Workspace(cycled, settings=settings) as workspace:
        first = workspace.train().name
        assert workspace.train().name == first
        texts.write_text('{"text": "Something else that was known."}')
        assert workspace.train().name != first


def test_a_snapshot_of_memory_holds_all_that_is_recalled(tmp_path: Path) -> None:
    lesson = Memory(id="mem-1", kind="insight", when_to_use="asked", content="look it up", status="active")
    with agentkd.Workspace(tmp_path, settings={"plugins": {"auto": False}}) as workspace:
        workspace.ledger.memories.admit([lesson])
        workspace.ledger.memories.set_status(lesson.id, "compiled", "in the weights", checkpoint="s@1")
        before = memory_snapshot(workspace.parts, "s@1")
        workspace.ledger.memories.set_status(lesson.id, "retired", "needless", checkpoint="s@1")
        assert memory_snapshot(workspace.parts, "s@1") != before


def test_what_a_phase_settles_is_true_with_its_record_or_not_at_all(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        parts, cycles = workspace.parts, workspace.ledger.cycles
        plan = open_plan(parts)
        memory = workspace.ledger.memories.list()[0].id

        def settled(is_cut_off: bool) -> StageResult:
            def settle() -> None:
                workspace.ledger.memories.set_status(
                    memory, "retired", "worth nothing", checkpoint="student@1-x"
                )
                if is_cut_off:
                    raise KeyboardInterrupt

            return StageResult("done", {}, settle=settle)

        def status() -> str:
            return workspace.ledger.memories.status_for("student@1-x", [memory])[memory]

        with pytest.raises(KeyboardInterrupt):
            journalled(parts, plan, "place", ["x"], lambda key: settled(is_cut_off=True))
        assert [p.status for p in cycles.phases(plan.cycle_id) if p.name == "place"] != ["done"]
        assert status() == "active"
        journalled(parts, plan, "place", ["x"], lambda key: settled(is_cut_off=False))
        assert [p.status for p in cycles.phases(plan.cycle_id) if p.name == "place"] == ["done"]
        assert status() == "retired"
