"""The closed-form divergence equals autograd's, and accounts for the whole probability mass."""

from __future__ import annotations

import pytest
import torch

from agentkd.train.objectives.divergence import top_k_forward_kl

N, V, K = 5, 17, 4


def teacher(k: int = K, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, V, dtype=torch.float64, generator=generator)
    top = logits.log_softmax(-1).topk(k)
    return logits, top.indices, top.values


def student() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(N, V, dtype=torch.float64, generator=generator).requires_grad_()


def reference(
    logits: torch.Tensor, ids: torch.Tensor, log_p: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    log_q = logits.log_softmax(-1)
    p = log_p.exp()
    outside = torch.ones_like(logits).scatter(-1, ids, 0)
    tail_p, tail_q = 1 - p.sum(-1), (log_q.exp() * outside).sum(-1)
    per_position = (p * (log_p - log_q.gather(-1, ids))).sum(-1) + tail_p * (tail_p / tail_q).log()
    return (per_position * weights).sum()


def test_it_is_zero_with_zero_gradient_where_student_and_teacher_agree() -> None:
    logits, ids, log_p = teacher()
    same = logits.clone().requires_grad_()
    loss = top_k_forward_kl(same, ids, log_p, torch.ones(N, dtype=torch.float64))
    loss.backward()
    assert abs(loss.item()) < 1e-14
    assert float(same.grad.abs().max()) < 1e-14


@pytest.mark.parametrize("k", [1, K, V - 1])
def test_loss_and_gradient_equal_those_of_autograd(k: int) -> None:
    _, ids, log_p = teacher(k)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0], dtype=torch.float64)
    ours, theirs = student(), student()
    loss, wanted = top_k_forward_kl(ours, ids, log_p, weights), reference(theirs, ids, log_p, weights)
    (3 * loss).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-13)


def test_the_whole_vocabulary_gives_the_full_divergence() -> None:
    logits, ids, log_p = teacher(V)
    loss = top_k_forward_kl(student(), ids, log_p, torch.ones(N, dtype=torch.float64))
    log_q = student().log_softmax(-1)
    wanted = torch.nn.functional.kl_div(log_q, logits.log_softmax(-1), log_target=True, reduction="sum")
    torch.testing.assert_close(loss, wanted)


def test_a_certain_teacher_gives_cross_entropy() -> None:
    ids = torch.arange(N)[:, None]
    certain = torch.zeros(N, 1, dtype=torch.float64)
    ours, theirs = student(), student()
    loss = top_k_forward_kl(ours, ids, certain, torch.ones(N, dtype=torch.float64))
    wanted = torch.nn.functional.cross_entropy(theirs, ids[:, 0], reduction="sum")
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_tail_pulls_mass_that_the_student_keeps_inside_the_top() -> None:
    ids = torch.tensor([[0, 1]])
    log_p = torch.tensor([[0.3, 0.3]], dtype=torch.float64).log()  # 0.4 lies outside
    logits = torch.zeros(1, V, dtype=torch.float64)
    logits[0, :2] = 9.0  # the student has hardly any mass outside
    logits.requires_grad_()
    top_k_forward_kl(logits, ids, log_p, torch.ones(1, dtype=torch.float64)).backward()
    assert bool((logits.grad[0, 2:] < 0).all())
    assert abs(float(logits.grad.sum())) < 1e-12


def test_rounded_signals_never_make_a_negative_or_infinite_loss() -> None:
    logits, _, _ = teacher()
    top = (8 * logits).log_softmax(-1).float().topk(6)
    rounded = top.values.half().float() + 1e-3  # the sum passes 1
    extreme = (-200 * logits.float()).requires_grad_()
    for weights in (torch.ones(N), torch.zeros(N)):
        loss = top_k_forward_kl(extreme, top.indices, rounded, weights)
        loss.backward()
        assert loss.item() >= 0
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(extreme.grad).all())


def test_missing_places_of_the_top_count_for_nothing() -> None:
    _, ids, log_p = teacher()
    padded = log_p.clone()
    padded[:, -1] = -torch.inf
    weights = torch.ones(N, dtype=torch.float64)
    ours = student()
    loss = top_k_forward_kl(ours, ids, padded, weights)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(ours.grad).all())
