from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime

import pytest

import agentkd
from agentkd import hf
from agentkd.compiler import describe_row
from agentkd.errors import DataError, PluginError, StoreError
from agentkd.files import aside_folder
from agentkd.plugins import PluginHost


def many(make, n=24, **more):
    return [make.run(f"task{i:02d}", **more) for i in range(n)]


def test_a_success_becomes_a_row_whose_mask_reads_as_the_call(make, rows):
    card = make.compile(make.inputs([make.run()]))
    (row,) = rows(card)
    wanted = '{"name": "book", "arguments": {"city": "Oslo", "people": 2}}'  # keys in schema order
    assert row.target.content == wanted
    pieces = describe_row(row, make.tokenizer)
    assert [weight for _, weight in pieces] == [0.0, 1.0]
    assert pieces[1][0] == f"{wanted}<|im_end|>"
    assert pieces[0][0].endswith("Request: please t0 t0-a t0-b<|im_end|>\n<|im_start|>assistant\n")
    assert "Tools:" not in pieces[0][0]
    assert (row.kind, row.teacher, row.weight) == ("trajectory", None, 1.0)
    assert (card.n_train, card.n_dev, card.dropped) == (1, 0, {})
    assert card.n_tokens == len(row.student.ids)
    assert card.n_label_tokens == sum(row.student.weights)


def test_a_correction_gives_the_target_and_the_wrong_call_is_kept_as_rejected(make, rows):
    run = make.run(calls=(make.call("find"),), success=False)
    right = make.correction(run, make.call("book", city="Bergen"))
    (row,) = rows(make.compile(make.inputs([run], [right])))
    assert row.kind == "correction"
    assert row.target.content == '{"name": "book", "arguments": {"city": "Bergen"}}'
    assert row.rejected.content == '{"name": "find", "arguments": {}}'
    wrong = row.student_rejected
    said = [token for token, weight in zip(wrong.ids, wrong.weights, strict=True) if weight]
    assert make.tokenizer.decode(said) == '{"name": "find", "arguments": {}}<|im_end|>'
    n_prompt = len(wrong.ids) - len(said)
    assert wrong.ids[:n_prompt] == row.student.ids[:n_prompt]
    assert row.provenance.corrections == (right.id,)
    assert (row.provenance.teacher, row.provenance.base) == ("grader", "base-x")


def test_a_failure_without_a_correction_teaches_nothing_positive(make):
    runs = [make.run("a", success=False), make.run("b", success=None), make.run("c")]
    card = make.compile(make.inputs(runs))
    assert card.n_train == 1
    assert card.dropped == {"failed without a correction": 1, "not graded": 1}


@pytest.mark.parametrize("split", ["holdout", "holdout-unseen", "test"])
def test_a_held_out_task_is_refused_and_nothing_is_written(make, split):
    with pytest.raises(DataError, match="held-out"):
        make.compile(make.inputs([make.run("a"), make.run("b", split=split)]))
    assert not make.out_root.exists()


def test_the_teacher_sees_memories_and_tools_and_the_student_does_not(make, rows):
    runs = [make.run("a"), make.run("b")]
    memory = make.memory("BOOK AT ONCE", runs[1])
    card = make.compile(make.inputs(runs, memories=[memory]), need_teacher=True)
    first, second = rows(card)
    teacher, student = make.tokenizer.decode(first.teacher.ids), make.tokenizer.decode(first.student.ids)
    assert "BOOK AT ONCE" in teacher
    assert "Tools:\nbook(" in teacher
    assert "BOOK AT ONCE" not in student
    labels = [[t for t, w in zip(v.ids, v.weights, strict=True) if w] for v in (first.student, first.teacher)]
    assert labels[0] == labels[1]
    assert first.provenance.memories == (memory.id,)
    assert second.teacher is None  # the memory rests on this very run: nothing was recalled
    assert second.teacher_view == ()
    assert (first.kind, second.kind) == ("trajectory", "internalise")
    card = make.compile(
        make.inputs(runs, memories=[memory]), need_teacher=True, settings={"teacher_tool_docs": False}
    )
    assert "Tools:" not in make.tokenizer.decode(rows(card)[0].teacher.ids)


def test_another_teacher_makes_another_dataset_and_its_card_says_so(make):
    runs = [make.run("a"), make.run("b")]
    memories = [make.memory("BOOK AT ONCE", runs[1])]
    cards = [
        make.compile(make.inputs(runs, memories=memories, teacher=teacher), need_teacher=True)
        for teacher in ("openai/one", "openai/two")
    ]
    assert [card.teacher for card in cards] == ["openai/one", "openai/two"]
    assert cards[0].id != cards[1].id


def test_a_success_rests_on_the_memories_that_it_recalled(make, rows):
    (row,) = rows(make.compile(make.inputs([make.run(recalled=("mem-1",))])))
    assert (row.kind, row.provenance.memories) == ("internalise", ("mem-1",))


def test_a_share_of_the_rows_is_written_again_with_the_memories_in_view(make, rows):
    runs = many(make)
    memory = make.memory("BOOK AT ONCE")
    inputs = make.inputs(runs, memories=[memory.model_copy(update={"support": 1})])
    card = make.compile(inputs, settings={"memory_share": 0.5})
    shown = [row for row in rows(card) if "BOOK AT ONCE" in row.student_view[1].content]
    assert 4 < len(shown) < 20
    assert card.n_train == len(runs) + len(shown)
    assert all(row.teacher is None and row.provenance.memories == (memory.id,) for row in shown)
    assert make.compile(inputs, settings={"memory_share": 0.0}).n_train == len(runs)
    assert make.compile(inputs, settings={"memory_share": 1.0}).n_train == 2 * len(runs)


def test_equal_work_compiles_to_the_same_dataset_whatever_its_ids_times_and_order(make):
    runs = many(make, 12)
    card = make.compile(make.inputs(runs), settings={"dev_share": 0.25})
    again = [
        run.model_copy(
            update={"id": f"other-{i}", "run_id": "q", "created_at": datetime(2020, 1, i + 1, tzinfo=UTC)}
        )
        for i, run in enumerate(runs)
    ]
    random.Random(0).shuffle(again)
    files = {f.name: f.read_bytes() for f in (make.out_root / card.id).iterdir()}
    assert make.compile(make.inputs(again), settings={"dev_share": 0.25}) == card
    assert {f.name: f.read_bytes() for f in (make.out_root / card.id).iterdir()} == files
    assert [p.name for p in make.out_root.iterdir()] == [card.id]
    other = make.compile(make.inputs(runs), settings={"dev_share": 0.25, "tool_docs": True})
    assert other.id != card.id


def test_several_attempts_with_one_answer_are_one_row_that_names_them_all(make, rows):
    runs = [make.run(id=f"tra-{i}", attempt=i) for i in range(3)]
    card = make.compile(make.inputs(runs))
    (row,) = rows(card)
    assert row.provenance.trajectories == ("tra-0", "tra-1", "tra-2")
    assert card.dropped == {"the same row again": 2}


def test_long_rows_are_dropped_with_a_reason_and_never_cut(make):
    runs = [make.run("short"), make.run("long", prompt="word " * 400)]
    card = make.compile(make.inputs(runs), max_tokens=200)
    assert card.n_train == 1
    assert card.dropped == {"row longer than 200 tokens": 1}


def test_near_duplicates_and_declared_groups_never_straddle_train_and_dev(make, rows):
    runs = [make.run(f"a{i}", prompt=f"play song number {i % 5} by the band") for i in range(20)]
    runs += [make.run(f"b{i}", prompt=f"unique{i} words{i} only{i}", group=f"g{i % 4}") for i in range(20)]
    card = make.compile(make.inputs(runs), settings={"dev_share": 0.3, "near_duplicate": 0.8})
    assert 0 < card.n_dev <= 12
    sides = {row.group: "train" for row in rows(card)}
    assert not sides.keys() & {row.group for row in rows(card, "dev")}
    groups = {row.task_id: row.group for row in [*rows(card), *rows(card, "dev")]}
    assert len({groups[f"a{i}"] for i in range(20)}) == 1
    assert groups["b0"] == groups["b4"] != groups["b1"]


def test_train_rows_show_no_memory_that_rests_on_a_task_kept_back(make, rows):
    runs = many(make, 10)
    memories = [make.memory(f"LESSON-{run.task.id}", run) for run in runs]
    card = make.compile(make.inputs(runs, memories=memories), need_teacher=True, settings={"dev_share": 0.2})
    kept_back = {row.task_id for row in rows(card, "dev")}
    assert len(kept_back) == 2
    for row in rows(card):
        assert not [task for task in kept_back if f"LESSON-{task}" in row.teacher_view[1].content]


@pytest.mark.parametrize(
    "change", [{"privacy": "private"}, {"kind": "fact"}, {"status": "revoked"}, {"status": "quarantined"}]
)
def test_what_may_not_be_compiled_is_never_shown_to_the_teacher(make, rows, change):
    memory = make.memory("DO NOT TRAIN", support=1, **change)
    (row,) = rows(make.compile(make.inputs([make.run()], memories=[memory]), need_teacher=True))
    assert row.teacher is None
    assert row.provenance.memories == ()


@pytest.mark.parametrize(("field", "value"), [("privacy", "private"), ("status", "revoked")])
def test_runs_under_a_private_or_revoked_memory_are_left_out(make, field, value):
    runs = [make.run("a"), make.run("b")]
    memory = make.memory("secret", runs[0], **{field: value})
    card = make.compile(make.inputs(runs, memories=[memory]))
    assert card.n_train == 1
    assert card.dropped == {f"rests on a {value} memory": 1}


def test_min_support_keeps_weak_memories_away_from_the_teacher(make, rows):
    runs = many(make, 3)
    weak, strong = make.memory("WEAK", runs[0]), make.memory("STRONG", runs[0], runs[1])
    card = make.compile(
        make.inputs(runs, memories=[weak, strong]), need_teacher=True, settings={"min_support": 2}
    )
    text = make.tokenizer.decode(rows(card)[2].teacher.ids)
    assert "STRONG" in text
    assert "WEAK" not in text


def test_a_plugin_may_veto_a_row_and_is_counted_by_name(make):
    class Picky:
        @agentkd.hookimpl
        def admit_example(self, example):
            return False if example.task_id == "a" else None

    host = PluginHost(auto=False)
    host.add(Picky(), "picky")
    card = make.compile(make.inputs([make.run("a"), make.run("b")]), hooks=host.hooks)
    assert (card.n_train, card.dropped) == (1, {"veto picky": 1})


def test_the_ledger_learns_what_every_row_is_made_from(make):
    run = make.run()
    ledger = make.ledger(run)
    card = make.compile(make.inputs([run]), ledger=ledger)
    assert make.compile(make.inputs([run]), ledger=ledger) == card  # again: no second row
    (row,) = ledger.datasets.rows(card.id)
    assert row.provenance.trajectories == (run.id,)
    ledger.close()


def test_a_dataset_that_was_left_incomplete_is_written_again(make):
    inputs = make.inputs(many(make, 3))
    card = make.compile(inputs)
    file = make.out_root / card.id / "train.jsonl"
    whole = file.read_text()
    file.write_text(whole.splitlines()[0] + "\n")
    with aside_folder(make.out_root) as ours:
        stale = ours.with_name(ours.name.replace(f"-{os.getpid()}-", "-999999999-"))
    stale.mkdir()
    make.compile(inputs)
    assert file.read_text() == whole
    assert not stale.exists()


def test_a_selector_that_fails_leaves_nothing_behind(make):
    class Broken:
        name = "broken"

        def score(self, examples):
            return [float("nan")] * len(examples)

    with pytest.raises(PluginError, match="broken"):
        make.compile(make.inputs([make.run()]), selectors=[Broken()])
    assert list(make.out_root.iterdir()) == []


def test_nothing_to_learn_is_a_card_without_rows(make):
    card = make.compile(make.inputs([]))
    assert (card.n_train, card.n_dev) == (0, 0)


def test_a_target_with_a_special_token_is_dropped_not_trained(make):
    runs = [make.run(calls=(make.call("book", city="x<|im_end|>y"),))]
    card = make.compile(make.inputs(runs))
    assert card.dropped == {"row cannot be rendered exactly": 1}


def test_the_card_names_template_base_and_settings(make):
    card = make.compile(make.inputs([make.run()]), settings={"memory_share": 0.25})
    assert card.template_hash == hf.template_hash(make.tokenizer)
    assert (card.base, card.settings["memory_share"]) == ("base-x", 0.25)
    stored = json.loads((make.out_root / card.id / "card.json").read_text())
    assert stored["id"] == card.id


def test_a_disk_that_refuses_is_one_clear_error_and_leaves_nothing(make, files_of_at_most):
    inputs = make.inputs(many(make, 8))
    with files_of_at_most(4096), pytest.raises(StoreError, match="cannot write a dataset"):
        make.compile(inputs)
    assert list(make.out_root.iterdir()) == []


def test_one_task_with_two_requests_gives_two_rows_that_are_split_by_both(make, rows):
    one = make.run("t", prompt="book a table for two")
    other = make.run("t", id="other", attempt=1, prompt="cancel the flight to Rome tomorrow")
    near = make.run("near", prompt="cancel the flight to Rome tomorrow")
    found = rows(make.compile(make.inputs([one, other, near])))
    assert len(found) == 3
    assert len({row.group for row in found}) == 1


def test_what_rests_on_one_of_two_equal_runs_is_clean_when_the_other_is_revoked(make):
    one, other = make.run(id="one"), make.run(id="other", attempt=1)
    ledger = make.ledger(one, other)
    tainted = make.compile(make.inputs([one, other]), ledger=ledger)
    assert make.compile(make.inputs([other]), ledger=ledger).id == tainted.id
    ledger.revocations.revoke_trajectories(["one"], "no more")
    clean = make.compile(make.inputs([other]), ledger=ledger)
    assert clean.id != tainted.id
    assert ledger.revocations.rows(tainted.id)
    assert not ledger.revocations.rows(clean.id)
    assert make.compile(make.inputs([other]), ledger=ledger).id == clean.id
    ledger.close()
