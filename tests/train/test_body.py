"""A pack gives what its rows give alone, and the fused adapter gives what peft gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import DataError, TrainError
from agentkd.schema import LoraSettings
from agentkd.train import body as body_module
from agentkd.train.attention import packed_attention
from agentkd.train.body import Body
from agentkd.train.lora import FusedLora, adapter_parameters, add_adapter
from agentkd.train.packing import make_packs
from agentkd.train.rows import View

MakeView = Callable[[list[int], int], View]


def with_adapter(model: Any, **fields: Any) -> Any:
    adapted = add_adapter(model, LoraSettings(r=4, alpha=8, **fields), init_adapter="", seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapter_parameters(adapted):
        if ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted


def some_views(make_view: MakeView) -> list[View]:
    head = [1, 5, 6, 7]
    tails = [[20, 21], [20, 22, 23, 24, 25], list(range(30, 60)), [20, 22, 23, 90, 91, 92], [61, 62, 63]]
    long = [200 + n % 90 for n in range(600)]  # more than two blocks of attention
    return [make_view(head + tail, 2) for tail in [*tails, long]] + [make_view([9, 8, 7, 6, 5], 3)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_rows_equal_separate_rows(base: Path, make_view: MakeView, dtype: str) -> None:
    model = with_adapter(hf.load_model(base, dtype=dtype, device="cpu"))
    views = some_views(make_view)
    body = Body(model)
    with torch.inference_mode():
        alone = [model(input_ids=torch.tensor([view.ids[:-1]])).logits[0].float() for view in views]
        body.pack_for_training(views)
        (pack,) = make_packs(views, 1000)
        packed = body.logits(body.hidden(pack))
    tolerance = 1e-4 if dtype == "float32" else 0.15  # bf16 has 8 bits; logits are around 5
    for row, (number, place) in zip(packed, pack.labels, strict=True):
        wanted = alone[number][views[number].labels[place] - 1]
        torch.testing.assert_close(row, wanted, rtol=0, atol=tolerance)


def test_gradients_of_a_pack_equal_those_of_separate_rows(base: Path, make_view: MakeView) -> None:
    model = with_adapter(hf.load_model(base, dtype="float32", device="cpu"))
    views = some_views(make_view)
    for view in views:
        logits = model(input_ids=torch.tensor([view.ids[:-1]])).logits[0]
        logits[[label - 1 for label in view.labels]].square().sum().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in adapter_parameters(model)}
    model.zero_grad()
    body = Body(model)
    body.pack_for_training(views)
    for pack in make_packs(views, 1000):
        body.logits(body.hidden(pack)).square().sum().backward()
    for name, parameter in adapter_parameters(model):
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["qwen2", "gemma3"])
def test_other_architectures_pack_too(kind: str, make_view: MakeView) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen2Config, Qwen2ForCausalLM

    shape = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    else:  # a window shorter than the rows, in one of two layers
        types = ["sliding_attention", "full_attention"]
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, head_dim=8, sliding_window=6, layer_types=types))
    Body(with_adapter(model.eval())).pack_for_training(
        [make_view(list(range(10 + n, 40 + 2 * n)), 20) for n in range(3)]
    )


def test_a_model_that_cannot_be_packed_is_refused(
    base: Path, make_view: MakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hf.load_model(base, dtype="float32", device="cpu")
    body = Body(model)
    real = model.base_model.forward
    # recurrence, in effect: what a row gives depends on the rows before it in the pack
    monkeypatch.setattr(
        model.base_model, "forward", lambda **kwargs: _mixed(real(**kwargs), "layout" in kwargs)
    )
    with pytest.raises(TrainError, match="cannot be trained packed"):
        body.pack_for_training(some_views(make_view))


@pytest.mark.parametrize("is_recurrent", [False, True])
def test_what_rounding_alone_may_have_done_is_looked_at_in_float32(
    base: Path, make_view: MakeView, monkeypatch: pytest.MonkeyPatch, is_recurrent: bool
) -> None:
    monkeypatch.setattr(body_module, "_NOISE", {torch.bfloat16: 0.0})
    model = with_adapter(hf.load_model(base, dtype="bfloat16", device="cpu"))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    body = Body(model)
    if is_recurrent:
        inner = model.get_base_model().base_model
        real = inner.forward
        monkeypatch.setattr(inner, "forward", lambda **kw: _mixed(real(**kw), "layout" in kw))
        with pytest.raises(TrainError, match="cannot be trained packed"):
            body.pack_for_training(some_views(make_view))
    else:
        body.pack_for_training(some_views(make_view))
    assert body.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name].dtype
        assert torch.equal(parameter, before[name])


def _mixed(output: Any, is_packed: bool) -> Any:
    if is_packed:
        output.last_hidden_state = output.last_hidden_state.cumsum(1)
    return output


def test_attention_that_loses_its_layout_is_refused() -> None:
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(TrainError, match="cannot be packed"):
        packed_attention(torch.nn.Module(), states, states, states, None)


def test_tokens_outside_the_vocabulary_are_refused(base: Path, make_view: MakeView) -> None:
    body = Body(hf.load_model(base, dtype="float32", device="cpu"))
    with pytest.raises(DataError, match="vocabulary"):
        body.pack_for_training([make_view([1, 2, 10**6], 1)])


def test_the_fused_layer_has_the_right_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 6), (5, 6), (5,), (2, 6), (5, 2)]
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    x, weight, bias, a, b = tensors
    for tensor in (x, a, b):
        tensor.requires_grad_()
    wanted = x @ weight.T + bias + 1.5 * (x @ a.T) @ b.T
    torch.testing.assert_close(FusedLora.apply(x, weight, bias, a, b, 1.5), wanted)
    torch.autograd.gradcheck(lambda x, a, b: FusedLora.apply(x, weight, bias, a, b, 1.5), (x, a, b))


def test_the_fused_adapter_gives_what_peft_gives(base: Path, tmp_path: Path) -> None:
    from agentkd.train.lora import write_adapter

    ids = torch.tensor([[1, 5, 6, 7, 20, 21]])
    fused = with_adapter(hf.load_model(base, dtype="float32", device="cpu"))
    write_adapter(fused, tmp_path, "base")
    theirs = hf.attach_adapter(hf.load_model(base, dtype="float32", device="cpu"), tmp_path)
    plain = hf.load_model(base, dtype="float32", device="cpu")
    with torch.inference_mode():
        torch.testing.assert_close(fused(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-4)
        with fused.disable_adapter():
            torch.testing.assert_close(fused(ids).logits, plain(ids).logits)
        assert float((fused(ids).logits - plain(ids).logits).abs().max()) > 0.1


def test_dropout_falls_on_the_adapter_alone(base: Path) -> None:
    model = with_adapter(hf.load_model(base, dtype="float32", device="cpu"), dropout=0.5)
    ids = torch.tensor([[1, 5, 6, 7, 20, 21]])
    with torch.inference_mode():
        assert not torch.equal(model(ids).logits, model(ids).logits)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, model(ids).logits)
