"""Selective losses keep the right labels of every row, however the step is cut."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import agentkd
from agentkd import hf
from agentkd.cycle.teach import objective_needs
from agentkd.errors import ConfigError
from agentkd.schema import Example, LoraSettings, TrainJob
from agentkd.testing import FakeKit
from agentkd.train.batch import Batch, Weighted
from agentkd.train.body import Body
from agentkd.train.loop import train
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.loss import StepScale, accumulate, normalisers
from agentkd.train.objectives import Sft
from agentkd.train.objectives.pairs import Dpo, DpoSettings
from agentkd.train.objectives.selective import Selective, SelectiveSettings
from agentkd.train.packing import make_packs
from agentkd.train.reporter import Reporter
from agentkd.train.rows import View

MakeJob = Callable[..., TrainJob]


def selective(**options: Any) -> Weighted:
    return Weighted(Selective(SelectiveSettings(objective="sft", **options)).wrap(Sft()), 1.0, "test")


@pytest.fixture
def body(base: Path) -> Body:
    model = hf.load_model(base, dtype="float32", device="cpu")
    return Body(add_adapter(model, LoraSettings(r=4, alpha=8), init_adapter="", seed=0))


@pytest.fixture
def views(body: Body) -> list[View]:
    views = []
    for n in range(4):
        ids = (1, 5, 6, *range(20 + n, 30 + 2 * n))
        weights = (1.0, 2.0, 1.0, 0.0, 1.0, 0.5)
        views.append(View(ids, tuple(range(len(ids) - 6, len(ids))), weights))
    body.pack_for_training(views)
    return views


class Focal:
    """A plugin's loss that asks for the teacher."""

    name, requires, top_k = "focal", frozenset({"teacher-top-k"}), 4

    def __call__(self, context: Any) -> torch.Tensor:
        return context.logits.sum() * 0


def test_rows_get_the_teacher_view_that_a_wrapped_loss_of_a_plugin_needs(tmp_path: Path) -> None:
    class Offers:
        @agentkd.hookimpl
        def components(self) -> Any:
            yield agentkd.Component("objective", "focal", "Focal.", lambda settings, kit: Focal())

    settings = {"train": {"objective": {"selective": {"objective": "focal", "reference": "base"}}}}
    with agentkd.Workspace(tmp_path / "shop", settings=settings, plugins=[Offers()]) as shop:
        assert "teacher-top-k" in objective_needs(shop.parts)


def step(body: Body, views: list[View], weighted: Weighted, chunk: int, max_tokens: int) -> Any:
    """One step; the reference's losses follow from the label, so that packs do not matter."""
    body.model.zero_grad()
    batches = []
    for pack in make_packs(views, max_tokens):
        reference = torch.tensor([5.0 + (7 * number + 3 * place) % 5 for number, place in pack.labels])
        batches.append(Batch(pack, torch.zeros(len(pack.labels)), references={weighted.name: reference}))
    scale = StepScale(normalisers([weighted], batches), 0, 1, chunk)
    terms = [accumulate(body, batch, [weighted], scale).terms for batch in batches]
    total = sum(term.get(f"{weighted.name}-sft", 0.0) for term in terms)
    return total, {name: p.grad.clone() for name, p in adapter_parameters(body.model)}, scale.normalisers


def test_chunks_and_packs_change_neither_choice_nor_gradient(body: Body, views: list[View]) -> None:
    loss, whole, normaliser = step(body, views, selective(), 256, 1000)
    for chunk, max_tokens in ((3, 1000), (256, 20), (4, 25)):
        other, parts, _ = step(body, views, selective(), chunk, max_tokens)
        assert other == pytest.approx(loss, rel=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5)
    assert normaliser["selective"] == 4 * 2, "two of five labels with a weight, per row"


def test_the_labels_furthest_behind_the_reference_are_kept(body: Body, views: list[View]) -> None:
    seen: list[int] = []

    class Watched(Sft):
        def forward(self, context: Any) -> Any:
            seen.extend(context.targets.tolist())
            return super().forward(context)

    weighted = Weighted(Selective(SelectiveSettings(objective="sft")).wrap(Watched()), 1.0, "test")
    step(body, views[:1], weighted, 256, 1000)
    (pack,) = make_packs(views[:1], 1000)
    with torch.no_grad():
        log_q = body.logits(body.hidden(pack)).log_softmax(-1)
    nll = -log_q.gather(1, torch.tensor(pack.targets)[:, None])[:, 0]
    ahead = [float(nll[n]) - (5.0 + 3 * n % 5) for n in range(6)]
    best = sorted((n for n in range(6) if n != 3), key=lambda n: -ahead[n])[:2]
    assert seen == [pack.targets[n] for n in sorted(best)]


def run(job: TrainJob) -> list[dict[str, Any]]:
    train(job, Reporter(is_machine=True, out=io.StringIO()))
    text = (Path(job.output) / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "terms" in line]


@pytest.fixture
def taught(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> Path:
    return write_dataset([make_example(n, teacher=n % 4 != 0) for n in range(8)], name="taught")


def test_it_trains_on_what_an_earlier_student_has_learnt(make_job: MakeJob, taught: Path) -> None:
    earlier = make_job("earlier", dataset=taught, objective={"forward-kl": {"top_k": 8}}, epochs=8.0)
    run(earlier)
    wrapped = {"objective": "forward-kl", "options": {"top_k": 8}, "reference": earlier.output}
    job = make_job("selective", dataset=taught, objective={"selective": wrapped}, epochs=8.0)
    lines = run(job)
    losses = [line["terms"]["selective-forward-kl"] for line in lines]
    assert losses[-1] < 0.7 * losses[0]
    assert (
        losses[0]
        > run(make_job("all", dataset=taught, objective={"forward-kl": {"top_k": 8}}, epochs=0.5))[0][
            "terms"
        ]["forward-kl"]
    )  # what is kept is what the student is worst at


def test_only_losses_that_rank_labels_can_be_wrapped() -> None:
    outer = Selective(SelectiveSettings(objective="dpo"))
    with pytest.raises(ConfigError, match="`selective` cannot choose tokens for `dpo`"):
        outer.wrap(Dpo(DpoSettings()))
    from agentkd.plugins import PluginHost
    from agentkd.train import objectives

    host = PluginHost(auto=False)
    host.add(objectives, "objectives")
    for inner in ("alm", "uld", "hidden-mse", "selective", "unknown"):
        with pytest.raises(ConfigError):
            host.registry.build("objective", "selective", {"objective": inner}, FakeKit()).prepare(1)
