"""Every divergence over buckets: its gradient, its zero at equality, its limits, and its masks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from agentkd.plugins import PluginHost, Registry
from agentkd.testing import FakeKit, check_objective
from agentkd.train import objectives
from agentkd.train.loss import Chunk
from agentkd.train.objectives.buckets import student_buckets, teacher_buckets

N, V, K = 6, 23, 5
FAMILY: dict[str, dict[str, Any]] = {
    "forward-kl": {},
    "reverse-kl": {},
    "jsd": {"beta": 0.3},
    "skew-kl": {"alpha": 0.2},
    "skew-kl reversed": {"reverse": True},
    "taid": {},
}
MOVING = "taid"  # its target follows the student, so that finite differences see another loss


def build(name: str) -> Any:
    component = next(c for c in objectives.components() if c.name == name.split()[0])
    return component.build(component.settings(**FAMILY[name]), FakeKit())


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(N, V, dtype=torch.float64, generator=generator)


def chunk(student: torch.Tensor, teacher: torch.Tensor, k: int = K, step: int = 0) -> Chunk:
    top = teacher.log_softmax(-1).topk(k)
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0, 1.0], dtype=torch.float64)
    return Chunk(
        student,
        top.indices[:, 0],
        weights,
        5.5,
        torch.zeros(len(weights), dtype=torch.long),
        top.indices,
        top.values,
        step,
        10,
    )


def loss_of(objective: Any, context: Chunk) -> torch.Tensor:
    (term,) = objective.forward(context).values()
    return term


def test_the_family_is_offered_as_components() -> None:
    host = PluginHost(auto=False)
    host.add(objectives, "objectives")
    registry: Registry = host.registry
    assert {name.split()[0] for name in FAMILY} <= set(registry.names("objective"))


def test_buckets_equal_those_of_autograd_with_their_gradient() -> None:
    ids = logits(1).topk(K).indices
    ours, theirs = logits(2).requires_grad_(), logits(2).requires_grad_()
    found = student_buckets(ours, ids)
    log_q = theirs.log_softmax(-1)
    outside = torch.ones(N, V, dtype=torch.float64).scatter(-1, ids, 0)
    tail = (log_q.exp() * outside).sum(-1, keepdim=True)
    wanted = torch.cat([log_q.gather(-1, ids), tail.log()], -1)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    mix = torch.arange(1.0, K + 2, dtype=torch.float64).sin()
    (found * mix).sum().backward()
    (wanted * mix).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


def test_buckets_account_for_the_whole_mass() -> None:
    ids = logits(1).topk(K).indices
    assert torch.allclose(student_buckets(logits(2), ids).exp().sum(-1), torch.ones(N, dtype=torch.float64))
    signals = logits(3).log_softmax(-1).topk(K).values.half()  # as the cache keeps them
    assert torch.allclose(teacher_buckets(signals, torch.float32).exp().sum(-1), torch.ones(N), atol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_it_keeps_the_promise_of_an_objective(name: str) -> None:
    check_objective(build(name))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("k", [1, K, V])
def test_it_is_zero_with_zero_gradient_where_student_and_teacher_agree(name: str, k: int) -> None:
    student = logits(4).requires_grad_()
    loss = loss_of(build(name), chunk(student, logits(4), k))
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert float(student.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("name", [name for name in FAMILY if name != MOVING])
@pytest.mark.parametrize("k", [1, K, V])
def test_its_gradient_equals_finite_differences(name: str, k: int) -> None:
    objective, student = build(name), logits(5, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss_of(objective, chunk(z, logits(6), k)), (student,))


@pytest.mark.parametrize("name", FAMILY)
def test_it_is_positive_and_finite_for_a_certain_teacher(name: str) -> None:
    teacher = torch.full((N, V), -60.0, dtype=torch.float64)
    teacher[:, 3] = 60.0
    student = logits(7).float().requires_grad_()
    loss = loss_of(build(name), chunk(student, teacher.float(), K))
    loss.backward()
    assert loss.item() > 0
    assert bool(torch.isfinite(student.grad).all())


def test_a_rest_below_what_the_cache_keeps_is_no_abyss() -> None:
    """Of a teacher's rest of 2e-8 float16 keeps nothing; the student that has 1e-3 there is a little off."""
    from agentkd.train.objectives import divergences as kd

    top = torch.tensor([[0.7, 0.2, 0.1 - 2e-8]], dtype=torch.float64)
    rest = 1 - top.sum(-1, keepdim=True)
    kept = teacher_buckets(top.log().half().float().log_softmax(-1), torch.float32)
    assert rest.half().item() == 0.0
    assert kept[0, -1] == -math.inf
    log_q = torch.cat([0.999 * top, 1 - 0.999 * top.sum(-1, keepdim=True)], -1).log()
    true = kd.reverse_kl(torch.cat([top, rest], -1).log(), log_q).item()
    found = kd.reverse_kl(kept, log_q.float()).item()
    assert found == pytest.approx(true, rel=0.15)  # the least float32 in its place makes 0.079 of 0.010
    assert kd.reverse_kl(kept, torch.tensor([[-40.0, -40.0, -40.0, 0.0]])).item() < 17
    there = torch.tensor([[-0.01, -20.0, -60.0, -4.65]])
    assert kd.reverse_kl(there, there + 0.0).item() == 0.0  # what the teacher did say counts as it is


def test_the_limits_of_jsd_and_skew_meet_the_plain_divergences() -> None:
    from agentkd.train.objectives import divergences as kd

    context = chunk(logits(8), logits(9), V)
    log_q = student_buckets(context.logits, context.teacher_top_ids)[:, :-1]
    log_p = teacher_buckets(context.teacher_top_log_probs, torch.float64)[:, :-1]
    plain = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kd.forward_kl(log_p, log_q), plain)
    torch.testing.assert_close(kd.skew_kl(log_p, log_q, 1e-12), plain, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(kd.generalised_jsd(log_p, log_q, 1e-9) / 1e-9, plain, rtol=1e-4, atol=1e-6)


def test_taid_moves_to_the_teacher_and_goes_on_from_its_state() -> None:
    objective = build("taid")
    objective.prepare(10)
    for step in range(6):
        loss_of(objective, chunk(logits(10 + step), logits(30), K, step))
    state = json.loads(json.dumps(objective.state_dict()))
    assert 0.4 + 0.6 * 5 / 9 <= state["t"] <= 1.0
    resumed = build("taid")
    resumed.prepare(10)
    resumed.load_state_dict(state)
    for step in range(6, 10):
        context = chunk(logits(10 + step), logits(30), K, step)
        assert loss_of(resumed, context).item() == loss_of(objective, context).item()


@pytest.mark.parametrize("before", [1e-8, -1e-8, 0.0])
def test_taid_keeps_to_its_schedule_after_a_loss_of_next_to_nothing(before: float) -> None:
    objective = build("taid")
    objective.prepare(10)
    objective.load_state_dict({"t": 0.4, "trend": 0.25, "before": before, "step": 4, "sum": 3.0})
    assert math.isfinite(loss_of(objective, chunk(logits(1), logits(30), K, 5)).item())
    state = objective.state_dict()
    assert state["trend"] == 0.25
    assert 0.4 + 0.6 * 5 / 9 <= state["t"] < 0.4 + 0.6 * 5 / 9 + 0.01
    assert state["before"] == 3.0


def test_taid_bears_any_jump_of_the_loss() -> None:
    objective = build("taid")
    objective.prepare(10)
    objective.load_state_dict({"t": 0.4, "trend": 0.0, "before": 1e-3, "step": 4, "sum": 1e6})
    loss_of(objective, chunk(logits(1), logits(30), K, 5))
    assert objective.state_dict()["t"] == pytest.approx(0.4 + 0.6 * 5 / 9)


@pytest.mark.parametrize("n_steps", [2, 3, 10])
@pytest.mark.parametrize("ends", [{}, {"start": 0.1, "end": 0.7}])
def test_taid_goes_from_its_start_to_its_end(n_steps: int, ends: dict[str, float]) -> None:
    component = next(c for c in objectives.components() if c.name == "taid")
    objective = component.build(component.settings(**ends, rate=0.0), FakeKit())
    objective.prepare(n_steps)
    shares = []
    for step in range(n_steps):
        loss_of(objective, chunk(logits(10 + step), logits(30), K, step))
        shares.append(objective.state_dict()["t"])
    start, end = ends.get("start", 0.4), ends.get("end", 1.0)
    assert shares == pytest.approx([start + (end - start) * step / (n_steps - 1) for step in range(n_steps)])


def test_the_closed_gradient_of_jsd_is_autograds() -> None:
    from agentkd.train.objectives import divergences as kd

    generator = torch.Generator().manual_seed(4)
    log_p, log_q = (
        torch.randn(5, 40, dtype=torch.float64, generator=generator).log_softmax(-1).requires_grad_()
        for _ in range(2)
    )
    scale = torch.linspace(0.5, 2, 5, dtype=torch.float64)

    def plain(beta: float) -> torch.Tensor:
        p, q = log_p.exp(), log_q.exp()
        m = beta * p + (1 - beta) * q
        return beta * (p * (log_p - m.log())).sum(-1) + (1 - beta) * (q * (log_q - m.log())).sum(-1)

    for beta in (0.1, 0.5, 0.9):
        mine, wanted = kd.generalised_jsd(log_p, log_q, beta), plain(beta)
        torch.testing.assert_close(mine, wanted)
        for got, true in zip(
            torch.autograd.grad((mine * scale).sum(), (log_p, log_q)),
            torch.autograd.grad((wanted * scale).sum(), (log_p, log_q)),
            strict=True,
        ):
            torch.testing.assert_close(got, true)
