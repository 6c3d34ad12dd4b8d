"""The gradient of a step does not depend on how the step is cut up, and terms do not mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import PluginError
from agentkd.schema import LoraSettings
from agentkd.train.body import Body
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.loss import Batch, PackSignals, StepScale, Weighted, accumulate, evaluate, normalisers
from agentkd.train.objectives import SelfContext, SelfContextSettings, Sft
from agentkd.train.packing import make_packs
from agentkd.train.prepare import with_mean_weights
from agentkd.train.rows import Row, View

SFT = Weighted(Sft(), 1.0, "test")
SELF = Weighted(SelfContext(SelfContextSettings(top_k=3)), 1.0, "test")
Gradient = dict[str, torch.Tensor]


@pytest.fixture
def body(base: Path) -> Body:
    model = hf.load_model(base, dtype="float32", device="cpu")
    adapted = add_adapter(model, LoraSettings(r=4, alpha=8), init_adapter="", seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapter_parameters(adapted):
        if ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return Body(adapted)


@pytest.fixture
def views(make_view: Callable[[list[int], int], View], body: Body) -> list[View]:
    views = [make_view([1, 5, 6, *range(20 + n, 30 + 2 * n)], 4) for n in range(6)]
    body.pack_for_training(views)
    return views


def signals_for(n: int, taught: Sequence[bool]) -> PackSignals:
    generator = torch.Generator().manual_seed(3)
    top = torch.randn(n, 50, generator=generator).mul(3).log_softmax(-1).topk(3)
    return PackSignals(top.indices, top.values, torch.tensor(taught))


def step(
    body: Body,
    views: list[View],
    objectives: list[Weighted],
    *,
    chunk: int = 256,
    max_tokens: int = 1000,
    untaught: Sequence[int] = (),
) -> tuple[dict[str, float], Gradient]:
    body.model.zero_grad()
    taught = [number not in untaught for number, view in enumerate(views) for _ in view.weights]
    everything = signals_for(len(taught), taught)
    starts = [0]
    for view in views:
        starts.append(starts[-1] + len(view.labels))
    batches = []
    for pack in make_packs(views, max_tokens):
        places = [starts[number] + place for number, place in pack.labels]
        signals = PackSignals(*(t[places] for t in vars(everything).values() if t is not None))
        batches.append(Batch.of(pack, signals))
    scale = StepScale(normalisers(objectives, batches), 0, 1, chunk)
    terms: dict[str, float] = {}
    for batch in batches:
        for name, value in accumulate(body, batch, objectives, scale).terms.items():
            terms[name] = terms.get(name, 0.0) + value
    return terms, {name: p.grad.clone() for name, p in adapter_parameters(body.model)}


def assert_same(one: Gradient, other: Gradient) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objectives", [[SFT], [SELF], [SFT, SELF]], ids=["sft", "self-context", "both"])
def test_chunks_and_packs_change_neither_loss_nor_gradient(
    body: Body, views: list[View], objectives: list[Weighted]
) -> None:
    terms, whole = step(body, views, objectives, untaught=[1])
    for cut in ({"chunk": 5}, {"max_tokens": 20}, {"chunk": 3, "max_tokens": 30}):
        other_terms, parts = step(body, views, objectives, untaught=[1], **cut)
        assert other_terms == pytest.approx(terms, rel=1e-5)
        assert_same(parts, whole)


def weighing(views: Sequence[View], *weights: float) -> list[View]:
    return [View(view.ids, view.labels, weights) for view in views]


def of_job(views: Sequence[View], *objectives: Weighted) -> list[Weighted]:
    """Return the objectives of a training on these views."""
    return with_mean_weights(objectives, [Row("", view, None) for view in views])


def test_the_loss_is_the_weighted_mean_over_the_labels(body: Body, views: list[View]) -> None:
    weighted = weighing(views, 2.0, 1.0, 0.5, 0.25)
    terms, _ = step(body, weighted, of_job(weighted, SFT))
    assert terms["sft"] == pytest.approx(evaluate(body, list(make_packs(weighted, 1000)), 7), rel=1e-5)


def test_scaling_all_weights_of_a_training_changes_nothing(body: Body, views: list[View]) -> None:
    _, once = step(body, views, of_job(views, SFT))
    tenfold = weighing(views, *(10.0,) * 4)
    _, same = step(body, tenfold, of_job(tenfold, SFT))
    assert_same(once, same)


def test_a_light_row_is_light_in_a_step_of_its_own(body: Body, views: list[View]) -> None:
    """Two rows of two steps pull in the proportion of their weights, as they do within one step."""
    light = weighing(views[:1], *(0.25,) * 4)
    job = of_job([*light, *views[1:2]], SFT)
    (terms, pull), (_, full) = step(body, light, job), step(body, views[:1], job)
    assert job[0].mean_weight == 0.625
    assert_same(pull, {name: 0.25 * gradient for name, gradient in full.items()})
    rejected = Row("pair", light[0], None, views[0])
    assert with_mean_weights([Weighted(_Pairs(), 1.0, "test")], [rejected])[0].mean_weight == 1.0
    assert terms["sft"] == pytest.approx(0.4 * step(body, views[:1], [SFT])[0]["sft"], rel=1e-5)


class _Pairs:
    name, requires = "pairs", frozenset({"rejected"})


def test_a_label_without_weight_does_not_count(body: Body, views: list[View]) -> None:
    _, some = step(body, [View(v.ids, v.labels, (1.0, 1.0, 0.0, 0.0)) for v in views], [SFT])
    _, only = step(body, [View(v.ids, v.labels[:2], (1.0, 1.0)) for v in views], [SFT])
    assert_same(some, only)


def test_the_sum_of_objectives_has_the_sum_of_their_gradients(body: Body, views: list[View]) -> None:
    _, sft = step(body, views, [SFT])
    _, own = step(body, views, [SELF])
    _, both = step(body, views, [SFT, Weighted(SELF.objective, 0.5, "test")])
    assert_same(both, {name: sft[name] + 0.5 * own[name] for name in sft})


def test_rows_without_a_teacher_do_not_dilute_the_divergence(body: Body, views: list[View]) -> None:
    terms, mixed = step(body, views, [SELF], untaught=[4, 5])
    body.model.zero_grad()
    taught_terms, taught = step(body, views[:4], [Weighted(_Fixed(views), 1.0, "test")])
    assert terms["self-context"] == pytest.approx(taught_terms["self-context"], rel=1e-5)
    assert_same(mixed, taught)


class _Fixed(SelfContext):
    """The divergence on the signals that the first rows of all six get."""

    def __init__(self, views: list[View]) -> None:
        super().__init__(SelfContextSettings(top_k=3))
        everything = signals_for(sum(len(v.labels) for v in views), [True] * 24)
        order = next(make_packs(views[:4], 1000)).labels
        places = [4 * number + place for number, place in order]
        self._signals = everything.top_ids[places], everything.log_probs[places]

    def forward(self, context: Any) -> Mapping[str, torch.Tensor]:
        context.teacher_top_ids, context.teacher_top_log_probs = self._signals
        return super().forward(context)


def test_a_failing_objective_is_named(body: Body, views: list[View]) -> None:
    class Broken(Sft):
        def forward(self, context: Any) -> Mapping[str, torch.Tensor]:
            raise KeyError("oops")

    with pytest.raises(PluginError, match="plugin `their-plugin` failed in objective `sft`"):
        step(body, views, [Weighted(Broken(), 1.0, "their-plugin")])


def test_a_loss_on_whole_rows_gets_them_whole(body: Body, views: list[View]) -> None:
    chunks: list[list[int]] = []

    class Whole(Sft):
        whole_rows = True

        def forward(self, context: Any) -> Mapping[str, torch.Tensor]:
            chunks.append(context.rows.tolist())
            return super().forward(context)

    _, plain = step(body, views, [SFT], chunk=5)
    _, whole = step(body, views, [Weighted(Whole(), 1.0, "test")], chunk=9)
    assert chunks == [[0] * 4 + [1] * 4, [2] * 4 + [3] * 4, [4] * 4 + [5] * 4]
    assert_same(whole, plain)
    chunks.clear()
    step(body, views, [Weighted(Whole(), 1.0, "test")], chunk=2)  # a longer row is a chunk by itself
    assert chunks == [[row] * 4 for row in range(6)]


def test_another_objectives_mask_and_weight_change_nothing(body: Body, views: list[View]) -> None:
    """The gradient of a sum is the sum of the gradients, whatever rows the other term sees."""
    _, sft = step(body, views, [SFT])
    for untaught, weight in (([], 1.0), ([0, 1, 2], 1.0), ([5], 7.0)):
        _, own = step(body, views, [SELF], untaught=untaught)
        _, both = step(body, views, [SFT, Weighted(SELF.objective, weight, "test")], untaught=untaught)
        assert_same({name: both[name] - weight * own[name] for name in sft}, sft)
