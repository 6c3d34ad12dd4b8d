"""The adapter: made or read with peft, computed by one fused function per layer, saved as peft saves it.

The fused function is exact for plain, rank-stabilised and PiSSA adapters over linear layers; DoRA, dropout
and quantised layers keep peft's own forward.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import LoraSettings
from agentkd.train import pissa

__all__ = [
    "NAME",
    "FusedLora",
    "adapter_parameters",
    "add_adapter",
    "check_adapter",
    "new_config",
    "without_dropout",
    "write_adapter",
]

NAME = "default"
"""Of the one adapter that is trained."""


def add_adapter(
    model: Any, settings: LoraSettings, *, init_adapter: str, seed: int, is_fused: bool = True
) -> Any:
    """Return the model with a trainable float32 adapter: a new one, or a copy of `init_adapter`.

    The student starts as its base: B is zero, or what PiSSA starts with is taken off again. The model stays
    in evaluation mode except for the adapter's own dropout. Without `is_fused` every layer keeps peft's own
    forward. Raises ConfigError for settings that exclude each other.
    """
    if init_adapter:
        wrapped = hf.attach_adapter(model, init_adapter, NAME)
        _set_dropout(wrapped, settings.dropout)
    else:
        wrapped = _new_adapter(model, settings, seed)
    wrapped.eval()
    for name, parameter in wrapped.named_parameters():
        is_adapter = ".lora_" in name
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.float()
    for module in wrapped.modules():
        if hasattr(module, "lora_dropout"):
            _drop(module, True)
            if is_fused:
                _fuse(module)
    return wrapped


def _drop(layer: Any, is_on: bool) -> None:
    """Switch a layer's dropout: peft's DoRA asks the layer itself, other ways of computing the dropout."""
    layer.training = is_on and _has_dropout(layer)
    layer.lora_dropout.train(is_on)


def _set_dropout(wrapped: Any, p: float) -> None:
    """Give an adapter that was read the dropout of this training; its own was the last one's."""
    for module in wrapped.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout[NAME] = torch.nn.Dropout(p) if p else torch.nn.Identity()


def check_adapter(settings: LoraSettings) -> None:
    """Raise ConfigError for settings of a new adapter that exclude each other."""
    if settings.init == "pissa" and (settings.variant == "dora" or settings.dropout):
        raise ConfigError(
            '`[train.lora] init = "pissa"` goes with neither `variant = "dora"` nor `dropout`',
            hint="leave one of them out",
            key="train.lora.init",
        )


def new_config(model: Any, settings: LoraSettings) -> Any:
    """Return peft's `LoraConfig` of a new adapter; of a model that also sees, on what reads text alone."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings.target_modules),
        use_rslora=settings.variant == "rslora",
        use_dora=settings.variant == "dora",
        init_lora_weights="gaussian" if settings.init == "gaussian" else True,
        task_type="CAUSAL_LM",
    )


def _targets(model: Any, wanted: Sequence[str]) -> str | list[str]:
    if model.config.get_text_config() is model.config:
        return wanted if isinstance(wanted, str) else list(wanted)
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    inside = {f"{prefix}.{name}": module for name, module in decoder.named_modules() if name}
    if wanted == "all-linear":
        return [name for name, module in inside.items() if isinstance(module, torch.nn.Linear)]
    found = {one: [name for name in inside if name.endswith(f".{one}")] for one in wanted}
    return [name for one in wanted for name in found[one] or [one]]


def _new_adapter(model: Any, settings: LoraSettings, seed: int) -> Any:
    from peft import get_peft_model

    check_adapter(settings)
    config = new_config(model, settings)
    with torch.random.fork_rng(), hf.quiet_peft():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
        if settings.init == "pissa":
            pissa.start(wrapped, NAME)
    return wrapped


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Switch the adapter's dropout off, where figures are compared or watched."""
    layers = [module for module in model.modules() if hasattr(module, "lora_dropout")]
    for layer in layers:
        _drop(layer, False)
    try:
        yield
    finally:
        for layer in layers:
            _drop(layer, True)


def adapter_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the trained parameters by name, in a fixed order."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def write_adapter(model: Any, folder: Path, base: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as peft reads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    state, changed = pissa.converted(model, state, NAME)
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {key: _plain(value) for key, value in model.peft_config[NAME].to_dict().items()}
    config |= {"base_model_name_or_path": base, "inference_mode": True, **changed}
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


class FusedLora(torch.autograd.Function):
    """`y = x W' + b + s (x A') B'` that keeps x once and makes no intermediate of y's size.

    The products run in x's type; A and B stay float32 and get float32 gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Compute `[..., in]` -> `[..., out]`."""
        flat = x.reshape(-1, x.shape[-1])
        a, b = lora_a.to(x.dtype), (lora_b * scale).to(x.dtype)
        low = flat @ a.t()
        y = F.linear(flat, weight, bias).addmm_(low, b.t())
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        flat, weight, a, b, low = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        dlow = dy @ b
        da = (dlow.t() @ flat).to(torch.promote_types(flat.dtype, torch.float32))
        db = (low.t() @ dy).t().to(da.dtype) * ctx.scale
        dx = (dy @ weight).addmm_(dlow, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return dx, None, None, da, db, None


def _fuse(layer: Any) -> None:
    """Let a peft layer over a plain linear layer compute by `FusedLora`; others keep peft's own way."""
    is_plain = type(layer.base_layer) is torch.nn.Linear and not layer.lora_variant
    if is_plain and not _has_dropout(layer):
        layer.forward = functools.partial(_forward, layer)


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    base = layer.base_layer
    if layer.disable_adapters:
        return F.linear(x, base.weight, base.bias)
    a, b = pissa.trained(layer, NAME)
    y: torch.Tensor = FusedLora.apply(x, base.weight, base.bias, a, b, layer.scaling[NAME])  # type: ignore[no-untyped-call]
    return y


def _has_dropout(layer: Any) -> bool:
    return any(getattr(dropout, "p", 0.0) > 0 for dropout in layer.lora_dropout.values())
