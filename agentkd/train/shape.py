"""The base model and the adapter in numbers, from configurations alone: no weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import LoraSettings, TrainJob
from agentkd.train import pissa
from agentkd.train.lora import NAME, new_config
from agentkd.train.model import decoder_layers

__all__ = ["Shape", "adapter_settings", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """The base model and the adapter in numbers."""

    n_layers: int
    """Decoder layers."""
    width: int
    """Width of the states."""
    n_vocabulary: int
    """Size of the vocabulary."""
    n_base: int
    """Parameters of the base."""
    n_adapter: int
    """Trained parameters."""
    n_heads: int = 1
    """Query heads of a layer."""
    n_in_layers: int = 0
    """Parameters of the base in its decoder layers: what `fsdp` splits."""


def shape_of(job: TrainJob) -> tuple[Any, Shape]:
    """Read the base's configuration; return it and the numbers.

    Raises ModelError where the base cannot be read, CheckpointError where the adapter that training goes on
    from cannot, ConfigError where the base has no module for a new one, or one that it cannot lie on.
    """
    import transformers

    config = hf.load_config(job.base)
    text = config.get_text_config()
    with torch.device("meta"), hf.quiet_peft():
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
        n_base = _count(model)
        n_in_layers = sum(map(_count, decoder_layers(model)))
        if job.init_adapter:
            n_adapter = sum(tensor.numel() for tensor in hf.read_adapter(job.init_adapter).tensors.values())
        else:
            n_adapter = _count(_with_adapter(model, job.settings.lora), trained_only=True)
    return config, Shape(
        text.num_hidden_layers, text.hidden_size, text.vocab_size, n_base, n_adapter,
        text.num_attention_heads, n_in_layers,
    )  # fmt: skip


def adapter_settings(job: TrainJob) -> LoraSettings:
    """Return the settings of the adapter that is trained: the job's, or what its `init_adapter` has.

    Dropout is the job's either way, and an alpha that is no whole number is rounded. Raises CheckpointError
    where the adapter cannot be read.
    """
    lora = job.settings.lora
    if not job.init_adapter:
        return lora
    found = hf.read_adapter(job.init_adapter).config
    targets: Any = found["target_modules"]
    if targets != "all-linear":
        targets = (targets,) if isinstance(targets, str) else tuple(targets)
    variant = "dora" if found.get("use_dora") else "rslora" if found.get("use_rslora") else "lora"
    return lora.model_copy(
        update={
            "r": found["r"],
            "alpha": max(1, round(found["lora_alpha"])),
            "target_modules": targets,
            "variant": variant,
            "init": "kaiming",
        }
    )


def _with_adapter(model: Any, lora: LoraSettings) -> Any:
    from peft import get_peft_model
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    try:
        wrapped: Any = get_peft_model(model, new_config(model, lora))
    except ValueError as error:
        raise ConfigError(
            f"no adapter fits the base: {error}",
            hint='name modules that it has, or set `[train.lora] target_modules = "all-linear"`',
            key="train.lora.target_modules",
        ) from error
    for name, layer in wrapped.get_base_model().named_modules():
        if isinstance(layer, BaseTunerLayer) and not isinstance(layer, Linear):
            raise ConfigError(
                f"an adapter lies on linear layers alone, and `{name}` of the base is of the kind "
                f"`{type(layer.get_base_layer()).__name__}`",
                hint="leave it out of `[train.lora] target_modules`",
                key="train.lora.target_modules",
            )
    if lora.init == "pissa":
        pissa.check(wrapped, NAME)
    return wrapped


def _count(module: Any, *, trained_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
