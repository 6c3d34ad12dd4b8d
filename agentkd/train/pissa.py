"""PiSSA: an adapter that begins with the principal part of each weight (Meng et al., 2024, arXiv:2404.02948).

The paper takes the principal part off the base. Here the base stays as it is, because it is the teacher
when the adapter is off, and the start (A0, B0) is taken off in the forward pass: s (B A - B0 A0). That
difference is an adapter of twice the rank, [A; A0] and [B, -B0], and is saved as one: it loads on the plain
base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from agentkd.errors import ConfigError

__all__ = ["check", "converted", "start", "trained"]

_EXACT_BELOW = 256  # a smaller side gets the exact decomposition
_ROUNDS = 4  # of the power iteration for larger ones
_A0, _B0 = "_pissa_a", "_pissa_b"


def check(model: Any, name: str) -> None:
    """Refuse with ConfigError what adapter `name` cannot begin with.

    That is a layer whose weight cannot be decomposed (quantised, no linear layer), or has fewer directions
    than the rank.
    """
    for module_name, layer in _layers(model):
        if type(layer.base_layer) is not torch.nn.Linear:
            raise ConfigError(
                f"`{module_name}` is a {type(layer.base_layer).__name__}, which PiSSA cannot begin with",
                hint='take `[train.lora] init = "kaiming"`',
                key="train.lora.init",
            )
        if layer.r[name] > (most := min(layer.base_layer.weight.shape)):
            raise ConfigError(
                f"`{module_name}` has {most} singular directions, and PiSSA would begin with {layer.r[name]}",
                hint=f'set `[train.lora] r` to {most} at most, or take `init = "kaiming"`',
                key="train.lora.r",
            )


def start(model: Any, name: str) -> None:
    """Set A and B of adapter `name` to the principal parts and keep a copy; uses torch's global generator.

    Raises ConfigError as `check`.
    """
    check(model, name)
    for _, layer in _layers(model):
        a, b = _principal(layer.base_layer.weight.detach().float(), layer.r[name])
        scale = layer.scaling[name] ** 0.5
        layer.lora_A[name].weight.data.copy_(a / scale)
        layer.lora_B[name].weight.data.copy_(b / scale)
        layer.register_buffer(_A0, layer.lora_A[name].weight.detach().clone().float(), persistent=False)
        layer.register_buffer(_B0, layer.lora_B[name].weight.detach().clone().float(), persistent=False)


def trained(layer: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the A and B that the layer adds: with the start taken off where there is one."""
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    if not hasattr(layer, _A0):
        return a, b
    return torch.cat([a, getattr(layer, _A0)]), torch.cat([b, -getattr(layer, _B0)], dim=1)


def converted(
    model: Any, state: Mapping[str, torch.Tensor], name: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the adapter's tensors as they are saved, and the keys of its configuration that change."""
    tensors, changed = dict(state), {}
    for module_name, layer in _layers(model):
        if hasattr(layer, _A0):
            a, b = trained(layer, name)
            tensors[f"{module_name}.lora_A.weight"], tensors[f"{module_name}.lora_B.weight"] = a, b
            r, scale = a.shape[0], layer.scaling[name]
            is_stabilised = bool(model.peft_config[name].use_rslora)
            changed = {"r": r, "lora_alpha": scale * (r**0.5 if is_stabilised else r)}
    return tensors, changed


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    for module_name, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            yield module_name, module


def _principal(weight: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A `[r, in]` and B `[out, r]` whose product is the best approximation of rank r."""
    if min(weight.shape) < _EXACT_BELOW:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    else:
        u, s, v = torch.svd_lowrank(weight, q=2 * r, niter=_ROUNDS)
        vh = v.t()
    root = s[:r].sqrt()
    return root[:, None] * vh[:r], u[:, :r] * root
