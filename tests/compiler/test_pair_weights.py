"""Emphasis and role weights in rows with a rejected answer: what both sides share counts alike in both."""

from __future__ import annotations

import pytest
import torch

from agentkd.schema import Message, Step
from agentkd.train.objectives.pairs import Dpo, DpoSettings, Redi, RediSettings
from agentkd.train.packing import make_packs
from agentkd.train.rows import load_dataset
from agentkd.train.spans import completion_spans

LONGER = {"city": "Oslo", "people": 2}
WRONG = {
    "changed": {"city": "Bergen", "people": 2},
    "cut": {"city": "Oslo"},  # of the wrong answer nothing differs
}


def pulls(objective, row):
    """Return the gradient of a loss by each label's log-probability, at equal logits, for both sides."""
    (pack,) = make_packs([row.student, row.rejected], 4096, together=[[0, 1]])
    spans = completion_spans(pack, [0, 0], [False, True], torch.device("cpu"))
    log_q = torch.zeros_like(spans.n_labels, requires_grad=True)
    alone = float(spans.weights[0]) * spans.count()  # what a training on this pair divides by
    context = spans.with_reference(torch.zeros(len(pack.labels))).context(alone, 0, 1)
    sum(objective.spans(log_q, context).values()).backward()
    each = (spans.factors * log_q.grad[spans.span_of]).tolist()
    sides = ([], [])
    for (number, place), pull in zip(pack.labels, each, strict=True):
        sides[number].append((place, pull))
    return tuple([pull for _, pull in sorted(side)] for side in sides)


@pytest.fixture
def pair(make):
    def compiled(wrong, **settings):
        run = make.run(calls=(make.call("book", **wrong),), success=False)
        right = make.correction(run, make.call("book", **LONGER))
        card = make.compile(make.inputs([run], [right]), settings=settings)
        (row,) = load_dataset(make.out_root / card.id, 4096).train
        return row

    return compiled


def n_shared(row):
    said = [[view.ids[t] for t in view.labels] for view in (row.student, row.rejected)]
    return next(n for n, (one, other) in enumerate(zip(*said, strict=False)) if one != other)


@pytest.mark.parametrize("wrong", WRONG)
def test_dpo_leaves_what_both_answers_begin_with_where_it_is(pair, wrong):
    row = pair(WRONG[wrong], correction_weight=4.0)
    assert set(row.student.weights) == {1.0, 4.0}
    chosen, rejected = pulls(Dpo(DpoSettings()), row)
    n = n_shared(row)
    assert n > 2
    assert [a + b for a, b in zip(chosen[:n], rejected[:n], strict=True)] == pytest.approx([0.0] * n)
    assert chosen[n] == pytest.approx(4 * chosen[0])
    assert chosen[0] < 0 < rejected[0]


@pytest.mark.parametrize("wrong", WRONG)
def test_an_emphasised_pair_keeps_the_alpha_of_redi(pair, wrong):
    chosen, rejected = pulls(Redi(RediSettings(alpha=0.8)), pair(WRONG[wrong], correction_weight=4.0))
    assert sum(chosen) == pytest.approx(-1.0)
    assert sum(rejected) == pytest.approx(0.8)


def test_a_wrong_answer_weighs_what_the_right_one_does_whatever_its_kind(make):
    step = Step(index=0, reply=Message(role="assistant", content="I cannot book", origin="model"))
    run = make.run(success=False).model_copy(update={"steps": (step,)})
    right = make.correction(run, make.call("book", city="Oslo"), step=0)
    settings = {"role_weights": {"assistant": 0.25, "tool_call": 2.0}}
    card = make.compile(make.inputs([run], [right]), settings=settings)
    (row,) = load_dataset(make.out_root / card.id, 4096).train
    assert set(row.student.weights) == set(row.rejected.weights) == {2.0}
