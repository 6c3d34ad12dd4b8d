"""Losses between two models keep the promise of an objective, and are what their formulas say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentkd.errors import ConfigError, TrainError
from agentkd.testing import check_objective
from agentkd.train.batch import Chunk, Spans
from agentkd.train.objectives.alm import Alm, AlmSettings
from agentkd.train.objectives.hidden import HiddenMse, HiddenMseSettings, Relations, RelationsSettings
from agentkd.train.objectives.sinkhorn import Sinkhorn, SinkhornSettings
from agentkd.train.objectives.uld import Uld, UldSettings

OBJECTIVES: list[Any] = [
    Uld(UldSettings(top_k=4)),
    Alm(AlmSettings()),
    Alm(AlmSettings(temperature=1.0)),
    Sinkhorn(SinkhornSettings(top_k=4)),
    HiddenMse(HiddenMseSettings()),
    Relations(RelationsSettings(heads=1)),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: str(o.name))
def test_the_promise_of_an_objective_is_kept(objective: Any) -> None:
    check_objective(objective)


def chunk(n: int = 3, v: int = 7, rows: list[int] | None = None, **fields: Any) -> Chunk:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, v, generator=generator, dtype=torch.float64).requires_grad_()
    known = {
        "logits": logits, "targets": torch.zeros(n, dtype=torch.long), "normaliser": float(n),
        "weights": torch.ones(n), "rows": torch.tensor(rows or [0] * n), "step": 0, "n_steps": 5,
        "teacher_top_ids": None, "teacher_top_log_probs": None,
    }  # fmt: skip
    return Chunk(**{**known, **fields})


def teacher(n: int, v: int, k: int, seed: int = 1) -> torch.return_types.topk:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, v, generator=generator, dtype=torch.float64).log_softmax(-1).topk(k)


def test_uld_over_the_whole_vocabulary_is_the_distance_of_sorted_probabilities() -> None:
    p = teacher(3, 11, 11).values  # another vocabulary, larger than the student's
    given = chunk(teacher_top_log_probs=p)
    (found,) = Uld(UldSettings(top_k=11)).forward(given).values()
    q = given.logits.softmax(-1).sort(descending=True).values
    wanted = (p.exp() - torch.nn.functional.pad(q, (0, 4))).abs().sum(-1).mean()
    torch.testing.assert_close(found, wanted)
    (less,) = Uld(UldSettings(top_k=3)).forward(given).values()
    assert 0 < less <= wanted, "truncated, it is a lower bound"


def spans(log_p: list[float], **fields: Any) -> Spans:
    m = len(log_p)
    return Spans(
        **{
            "n_labels": torch.ones(m), "weights": torch.ones(m), "pair": torch.full((m,), -1),
            "is_rejected": torch.zeros(m, dtype=torch.bool), "log_q_reference": None,
            "log_p": torch.tensor(log_p, dtype=torch.float64), "normaliser": float(m), "step": 0,
            "n_steps": 1,
            **fields,
        }
    )  # fmt: skip


def test_alm_has_the_gradient_of_the_binary_cross_entropy() -> None:
    log_q = torch.tensor([-0.5, -3.0, -20.0], dtype=torch.float64, requires_grad=True)
    given, tau = spans([-1.0, -0.2, -2.0]), 10.0
    (loss,) = Alm(AlmSettings(temperature=tau)).spans(log_q, given).values()
    (found,) = torch.autograd.grad(loss, log_q)
    p, q = (given.log_p / tau).exp(), (log_q / tau).exp()  # type: ignore[operator]
    plain = -(p * q.log() + (1 - p) * (1 - q).log()).mean() * tau
    torch.testing.assert_close(found, torch.autograd.grad(plain, log_q)[0])
    assert loss > 0


def test_alm_pulls_towards_the_teachers_probability_from_both_sides() -> None:
    log_q = torch.tensor([-5.0, -0.01, -1.0], requires_grad=True)
    (loss,) = Alm(AlmSettings()).spans(log_q, spans([-1.0, -1.0, -1.0])).values()
    (slope,) = torch.autograd.grad(loss, log_q)
    assert slope[0] < 0 < slope[1]
    assert abs(float(slope[2])) < 1e-4


def test_alm_stays_finite_where_both_are_certain() -> None:
    log_q = torch.tensor([0.0, 0.0, -1e-9], requires_grad=True)
    (loss,) = Alm(AlmSettings()).spans(log_q, spans([0.0, -1.0, 0.0])).values()
    (slope,) = torch.autograd.grad(loss, log_q)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


def test_a_sinkhorn_plan_has_the_weights_as_its_marginals_and_beats_the_fixed_order() -> None:
    top = teacher(4, 7, 7)
    given = chunk(4, teacher_top_ids=top.indices, teacher_top_log_probs=top.values)
    objective = Sinkhorn(SinkhornSettings(top_k=7, epsilon=0.02, iterations=500))
    p = torch.zeros(4, 7, dtype=torch.float64).scatter_(1, top.indices, top.values.exp())
    cost = torch.cdist(given.logits.softmax(-1), p, p=1)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    plan = objective.plan(cost.detach(), weights)
    torch.testing.assert_close(plan.sum(0), weights, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(plan.sum(1), weights, rtol=1e-3, atol=1e-3)
    (loss,) = objective.forward(given).values()
    assert float(loss.detach()) <= float(cost.detach().diagonal().mean()) + 1e-6
    shuffled = top.indices[[1, 2, 3, 0]], top.values[[1, 2, 3, 0]]
    moved = chunk(4, teacher_top_ids=shuffled[0], teacher_top_log_probs=shuffled[1])
    torch.testing.assert_close(objective.forward(moved)["sinkhorn"], loss, msg="the order must not matter")


def test_rows_never_mix_in_sinkhorn_and_relations() -> None:
    top = teacher(4, 7, 3)
    states = torch.randn(4, 8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    other = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
    for objective in (Sinkhorn(SinkhornSettings(top_k=3)), Relations(RelationsSettings(heads=2))):

        def total(cut: slice, rows: list[int], one: Any = objective) -> torch.Tensor:
            given = chunk(
                4, rows=[0, 0, 1, 1], hidden=states, teacher_hidden=other,
                teacher_top_ids=top.indices, teacher_top_log_probs=top.values,
            )  # fmt: skip
            kept = {k: v[cut] for k, v in vars(given).items() if isinstance(v, torch.Tensor)}
            part = Chunk(**{**vars(given), **kept, "rows": torch.tensor(rows)})
            return sum(one.forward(part).values(), torch.zeros(()))

        both = total(slice(0, 4), [0, 0, 1, 1])
        torch.testing.assert_close(both, total(slice(0, 2), [0, 0]) + total(slice(2, 4), [0, 0]))


def test_heads_that_divide_no_width_are_refused() -> None:
    states = torch.randn(3, 8).requires_grad_()
    with pytest.raises(ConfigError, match=r"heads` = 3 does not divide a width of 8"):
        Relations(RelationsSettings(heads=3)).forward(chunk(hidden=states, teacher_hidden=states.detach()))


def test_the_map_of_hidden_states_is_trained_and_restored_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(6, 4, generator=generator)
    objective = HiddenMse(HiddenMseSettings(learning_rate=0.05))
    losses = []
    for step in range(60):
        states = torch.randn(32, 6, generator=generator).requires_grad_()
        given = chunk(32, hidden=states, teacher_hidden=states.detach() @ truth, step=step)
        loss = objective.forward(given)["hidden-mse"]
        loss.backward()
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]
    copy = HiddenMse(HiddenMseSettings(learning_rate=0.05))
    copy.load_state_dict(objective.state_dict())
    for one in (objective, copy):
        for step in (60, 61):
            states = torch.ones(32, 6).requires_grad_()
            one.forward(chunk(32, hidden=states, teacher_hidden=torch.ones(32, 4), step=step))[
                "hidden-mse"
            ].backward()
    assert objective.state_dict() == copy.state_dict()


def test_a_map_for_other_widths_is_refused() -> None:
    objective = HiddenMse(HiddenMseSettings())
    objective.forward(chunk(hidden=torch.randn(3, 6), teacher_hidden=torch.randn(3, 4)))
    with pytest.raises(TrainError, match="other widths"):
        objective.forward(chunk(hidden=torch.randn(3, 6), teacher_hidden=torch.randn(3, 5)))
