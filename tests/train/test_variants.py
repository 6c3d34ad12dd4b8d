"""The variants of LoRA: each starts as the base, learns, goes on bit by bit, and loads in peft as it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import ConfigError, TrainError
from agentkd.schema import LoraSettings, TrainJob
from agentkd.train import pissa
from agentkd.train.body import Body
from agentkd.train.loop import train
from agentkd.train.lora import NAME, add_adapter, without_dropout, write_adapter
from agentkd.train.packing import make_packs
from agentkd.train.reporter import Reporter
from agentkd.train.rows import View
from agentkd.train.shape import shape_of

MakeJob = Callable[..., TrainJob]
MakeView = Callable[[list[int], int], View]
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora"},
    "pissa": {"init": "pissa"},
    "rslora-pissa": {"variant": "rslora", "init": "pissa"},
    "gaussian": {"init": "gaussian"},
}


def quietly(job: TrainJob, stop_after: int = 10**9) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= stop_after

    train(job, Reporter(is_machine=True, out=io.StringIO()), should_stop)


def logits_of(model: Any, view: View) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([view.ids])).logits[0]
    return found


def fitted(base: Path, settings: LoraSettings, views: list[View]) -> Any:
    """Return an adapter after ten steps on the views, by the packed and fused way."""
    model = add_adapter(hf.load_model(base, "float32", "cpu"), settings, init_adapter="", seed=1)
    body = Body(model)
    body.pack_for_training(views)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(10):
        for pack in make_packs(views, 4096):
            logits = body.logits(body.hidden(pack))
            torch.nn.functional.cross_entropy(logits, torch.tensor(pack.targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_starts_as_the_base_and_loads_as_it_was_trained(
    base: Path, tmp_path: Path, make_view: MakeView, name: str
) -> None:
    settings = LoraSettings(r=4, alpha=8, **VARIANTS[name])
    views = [make_view([1, 5, 6, n, n + 1, n + 2, 2], 3) for n in range(20, 26)]
    plain = logits_of(hf.load_model(base, "float32", "cpu"), views[0])
    fresh = add_adapter(hf.load_model(base, "float32", "cpu"), settings, init_adapter="", seed=1)
    torch.testing.assert_close(logits_of(fresh, views[0]), plain, atol=2e-4, rtol=1e-4)
    model = fitted(base, settings, views)
    trained = Body(model)
    with torch.inference_mode():
        wanted = torch.cat([trained.logits(trained.hidden(pack)) for pack in make_packs(views[:1], 4096)])
    write_adapter(model, tmp_path, str(base))
    loaded = hf.attach_adapter(hf.load_model(base, "float32", "cpu"), tmp_path)
    found = logits_of(loaded, views[0])[[label - 1 for label in views[0].labels]]
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
    assert float((found - plain[[label - 1 for label in views[0].labels]]).abs().max()) > 0.05
    with model.disable_adapter():  # the teacher of self-context is the untouched base
        kept = torch.cat([trained.logits(trained.hidden(pack)) for pack in make_packs(views[:1], 4096)])
    torch.testing.assert_close(kept, plain[[label - 1 for label in views[0].labels]], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dora", "pissa"])
def test_a_variant_goes_on_bit_by_bit(make_job: MakeJob, name: str) -> None:
    lora = {"r": 4, "alpha": 8, **VARIANTS[name]}
    whole, cut = make_job("whole", lora=lora), make_job("cut", lora=lora)
    quietly(whole)
    with pytest.raises(TrainError, match="was interrupted"):
        quietly(cut, stop_after=3)
    quietly(cut)
    weights = [(Path(job.output) / "adapter_model.safetensors").read_bytes() for job in (whole, cut)]
    assert weights[0] == weights[1]
    assert hf.read_adapter(cut.output).r == (8 if name == "pissa" else 4)
    more = make_job("more", lora=lora, init_adapter=cut.output)
    quietly(more)
    assert hf.read_adapter(more.output).r == (8 if name == "pissa" else 4)


def test_pissa_begins_with_the_principal_part_that_peft_takes(base: Path) -> None:
    from peft import LoraConfig, get_peft_model

    ours = add_adapter(
        hf.load_model(base, "float32", "cpu"),
        LoraSettings(r=4, alpha=8, init="pissa"),
        init_adapter="",
        seed=0,
    )
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa")
    theirs = get_peft_model(hf.load_model(base, "float32", "cpu"), config)
    layers = dict(theirs.named_modules())
    checked = 0
    for name, layer in ours.named_modules():
        if hasattr(layer, "lora_dropout"):
            other = layers[name]
            products = [one.lora_B[NAME].weight @ one.lora_A[NAME].weight for one in (layer, other)]
            torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-3)
            checked += 1
    assert checked == 14


@pytest.mark.parametrize("is_read", [False, True], ids=["new", "read"])
def test_dropout_of_dora_is_that_of_peft(
    base: Path, tmp_path: Path, make_view: MakeView, is_read: bool
) -> None:
    settings = LoraSettings(r=4, alpha=8, variant="dora", dropout=0.3)
    view = make_view([1, 5, 6, 20, 21, 22, 2], 3)
    ours = fitted(base, settings, [view])
    if is_read:
        write_adapter(ours, tmp_path, str(base))
        model = hf.load_model(base, "float32", "cpu")
        ours = add_adapter(model, settings, init_adapter=str(tmp_path), seed=0)
    body = Body(ours)
    (pack,) = make_packs([view], 4096)
    layers = [layer for layer in ours.modules() if hasattr(layer, "lora_magnitude_vector")]
    x = torch.randn(5, layers[0].base_layer.in_features)
    drawn = []
    for switch in (lambda: None, layers[0].train):  # as we leave it, and as peft trains it
        switch()
        torch.manual_seed(3)
        drawn.append(layers[0](x))
    assert torch.equal(*drawn)
    with torch.inference_mode():
        torch.manual_seed(1)
        first, second = body.hidden(pack), body.hidden(pack)
        assert not torch.equal(first, second)
        with without_dropout(ours):
            assert torch.equal(body.hidden(pack), body.hidden(pack))
            assert torch.equal(layers[0](x), layers[0].eval()(x))
        torch.manual_seed(1)
        assert torch.equal(body.hidden(pack), first)


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(base: Path, tmp_path: Path) -> None:
    settings = LoraSettings(r=16, alpha=8, variant="rslora")
    model = add_adapter(hf.load_model(base, "float32", "cpu"), settings, init_adapter="", seed=0)
    write_adapter(model, tmp_path, str(base))
    assert hf.read_adapter(tmp_path).scale == pytest.approx(2.0)


@pytest.mark.parametrize("other", [{"variant": "dora"}, {"dropout": 0.1}])
def test_pissa_refuses_what_it_does_not_go_with(make_job: MakeJob, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="goes with neither"):
        quietly(make_job(lora={"r": 4, "init": "pissa", **other}))


def test_pissa_refuses_a_rank_that_a_layer_does_not_have(make_job: MakeJob) -> None:
    """The tiny base's keys and values are 32 wide."""
    with pytest.raises(ConfigError, match=r"k_proj` has 32 singular directions, .* begin with 33") as refused:
        shape_of(make_job(lora=LoraSettings(r=33, init="pissa")))
    assert "to 32 at most" in refused.value.hint


def test_pissa_begins_with_a_rank_of_more_than_half_of_a_wide_layer() -> None:
    """The power iteration looks at twice the rank, and there are no more directions than the smaller side."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(320, 256, bias=False))
    with_adapter = get_peft_model(layer, LoraConfig(r=200, lora_alpha=200, target_modules=["0"]))
    pissa.start(with_adapter, "default")
    found = with_adapter.base_model.model[0]
    product = found.lora_B["default"].weight @ found.lora_A["default"].weight
    u, s, vh = torch.linalg.svd(found.base_layer.weight, full_matrices=False)
    torch.testing.assert_close(product, u[:, :200] * s[:200] @ vh[:200], atol=1e-3, rtol=0)
