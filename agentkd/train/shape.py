"""The base model and the adapter in numbers, from configurations alone: no weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from agentkd import hf
from agentkd.schema import TrainJob
from agentkd.train.model import decoder_layers

__all__ = ["Shape", "shape_of"]


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
    """Read the base's configuration; return it and the numbers."""
    import transformers
    from peft import LoraConfig, get_peft_model

    config = transformers.AutoConfig.from_pretrained(job.base, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config()
    with torch.device("meta"), hf.quiet_peft():
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
        n_base = _count(model)
        n_in_layers = sum(map(_count, decoder_layers(model)))
        lora = job.settings.lora
        targets = lora.target_modules
        shaped = LoraConfig(
            r=lora.r,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        n_adapter = _count(get_peft_model(model, shaped), trained_only=True)
    return config, Shape(
        text.num_hidden_layers, text.hidden_size, text.vocab_size, n_base, n_adapter,
        text.num_attention_heads, n_in_layers,
    )  # fmt: skip


def _count(module: Any, *, trained_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
