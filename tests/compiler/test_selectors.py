"""Selectors: what they weigh, and what they leave out."""

from __future__ import annotations

import pytest

from agentkd.compiler import (
    CorrectionSelector,
    CorrectionSettings,
    DifficultySelector,
    DifficultySettings,
    DivergenceSelector,
    DivergenceSettings,
)


def test_corrections_are_kept_alone_or_weighed(make, rows):
    good, bad = make.run("a"), make.run("b", success=False)
    inputs = make.inputs([good, bad], [make.correction(bad, make.call("find"))])
    card = make.compile(inputs, selectors=[CorrectionSelector()])
    assert [row.kind for row in rows(card)] == ["correction"]
    assert card.dropped == {"selector correction": 1}
    settings = CorrectionSettings(weight=3.0, others=0.5)
    card = make.compile(inputs, selectors=[CorrectionSelector(settings)])
    assert {row.kind: row.weight for row in rows(card)} == {"trajectory": 0.5, "correction": 3.0}


def graded(make, task, wins, n):
    return [
        make.run(task, id=f"{task}-{i}", attempt=i, success=i < wins, prompt=f"{task} {task}x {task}y")
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("prefer", "order"),
    [("hard", ["rare", "half", "often"]), ("easy", ["often", "half", "rare"]), ("middle", ["half"])],
)
def test_tasks_weigh_by_how_often_the_student_succeeds(make, rows, prefer, order):
    runs = [*graded(make, "rare", 1, 9), *graded(make, "half", 4, 9), *graded(make, "often", 8, 9)]
    selector = DifficultySelector(DifficultySettings(prefer=prefer))
    card = make.compile(make.inputs(runs, students=frozenset({"base"})), selectors=[selector])
    weights = {row.task_id: row.weight for row in rows(card)}
    assert sorted(weights, key=lambda task: -weights[task])[: len(order)] == order
    assert len(set(weights.values())) >= 2


def test_only_the_present_students_runs_say_what_is_hard(make, rows):
    runs = graded(make, "rare", 1, 9)
    inputs = make.inputs(runs, students=frozenset({"base@student-7"}))
    (row,) = rows(make.compile(inputs, selectors=[DifficultySelector()]))
    assert row.weight == 1.0
    hard = DifficultySelector(DifficultySettings(prefer="easy", drop_below=0.5))
    card = make.compile(make.inputs(runs, students=frozenset({"base"})), selectors=[hard])
    assert card.dropped["selector difficulty"] == 1


def test_failures_on_near_duplicates_count_for_a_group(make, rows):
    prompt = "book a table for two in the centre of town tonight"
    runs = [make.run("a", prompt=prompt)]
    runs += [make.run(f"b{i}", success=False, prompt=f"{prompt} please", id=f"b{i}") for i in range(5)]
    inputs = make.inputs(runs, students=frozenset({"base"}))
    (row,) = rows(make.compile(inputs, settings={"near_duplicate": 0.9}))
    assert row.extras["skill"] == [6, 1]


@pytest.mark.parametrize("measure", ["kl", "gap"])
def test_rows_weigh_by_what_the_memories_add(make, rows, tokenizer_folder, measure):
    runs = [make.run("a"), make.run("b")]
    memory = make.memory("BOOK AT ONCE", runs[1])
    inputs = make.inputs(runs, memories=[memory])
    settings = DivergenceSettings(measure=measure, scale=0.5)
    selector = DivergenceSelector(settings, folder=lambda: tokenizer_folder, dtype="float32", device="cpu")
    taught, plain = rows(make.compile(inputs, need_teacher=True))
    found = selector.divergence(taught.teacher, taught.student)
    assert abs(selector.divergence(taught.student, taught.student)) < 1e-5
    assert found > 0.01 if measure == "kl" else found != 0
    weight = selector.score([taught, plain])
    assert weight == [pytest.approx(2 * max(found, 0) / (max(found, 0) + 0.5), abs=1e-3), 1.0]
    strict = DivergenceSettings(measure=measure, drop_below=1e6)
    dropping = DivergenceSelector(strict, folder=lambda: tokenizer_folder, dtype="float32", device="cpu")
    card = make.compile(inputs, need_teacher=True, selectors=[dropping])
    assert card.dropped["selector divergence"] == 1


def test_the_mean_divergence_is_that_of_the_whole_distributions(make, rows, tokenizer_folder):
    import torch

    from agentkd import hf

    runs = [make.run("a"), make.run("b")]
    inputs = make.inputs(runs, memories=[make.memory("BOOK AT ONCE", runs[1])])
    row = rows(make.compile(inputs, need_teacher=True))[0]
    model = hf.load_model(tokenizer_folder, "float32", "cpu")
    sides = []
    for view in (row.teacher, row.student):
        labels = [t - 1 for t, weight in enumerate(view.weights) if weight]
        sides.append(model(torch.tensor([view.ids])).logits[0, labels].log_softmax(-1))
    wanted = (sides[0].exp() * (sides[0] - sides[1])).sum(-1).mean()
    selector = DivergenceSelector(folder=lambda: tokenizer_folder, dtype="float32", device="cpu")
    assert selector.divergence(row.teacher, row.student) == pytest.approx(float(wanted), abs=1e-5)
