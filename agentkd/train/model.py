"""The model that is trained: loaded (in 4 bits where asked), and with what saves memory or time.

`compile` translates every decoder layer with torch.compile: the first steps take about half a minute per
layer, and again where a pack has another number of length groups; it needs a C++ compiler, and results agree
to rounding, not to the bit.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

import torch

from agentkd import hf
from agentkd.errors import ConfigError, MissingExtraError, ModelError
from agentkd.schema import TrainJob, TrainSettings

__all__ = ["check_settings", "decoder_layers", "load_base", "recompute_activations", "translate"]

_SHAPES_PER_LAYER = 8


def check_settings(settings: TrainSettings, device: str) -> None:
    """Refuse what this machine cannot do: ConfigError for the device, MissingExtraError for a package."""
    if settings.quantise != "none":
        if not device.startswith("cuda"):
            raise ConfigError(
                f'`[train] quantise = "{settings.quantise}"` needs a CUDA device, and this training runs on '
                f"`{device}`",
                hint='set `quantise = "none"`; on a CPU `dtype = "bfloat16"` halves the weights instead',
                key="train.quantise",
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError(
                "4-bit weights need the package `bitsandbytes`",
                hint='pip install bitsandbytes, or set `[train] quantise = "none"`',
            )
        if settings.lora.init == "pissa":
            raise ConfigError(
                '`[train.lora] init = "pissa"` needs the weights as they are, not in 4 bits',
                hint='take `init = "kaiming"`',
                key="train.lora.init",
            )
    if settings.compile and device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ConfigError(
            "`[train] compile` needs a C++ compiler, and there is none on this machine",
            hint="install g++ or set `compile = false`",
            key="train.compile",
        )


def load_base(job: TrainJob, dtype: str, device: str) -> Any:
    """Load the base model on `device`; its weights are frozen."""
    if job.settings.quantise == "none":
        return hf.load_model(job.base, dtype=dtype, device=device)
    import transformers

    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=job.settings.quantise,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            job.base,
            dtype=getattr(torch, dtype),
            quantization_config=config,
            device_map={"": device},
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise ModelError(f"cannot load `{job.base}` in 4 bits: {error}", path=job.base) from error
    model.requires_grad_(False)
    return model.eval()


def decoder_layers(model: Any) -> Iterator[torch.nn.Module]:
    """Yield the model's decoder layers in order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            yield module


def recompute_activations(model: Any) -> None:
    """Keep only the input of every decoder layer; the backward pass computes the rest again.

    The layers alone are told that they train, so nothing else (dropout of the base) changes.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for layer in decoder_layers(causal):
        layer.training = True


def translate(model: Any) -> None:
    """Translate every decoder layer with torch.compile, for packs of any length."""
    layers = list(decoder_layers(model))
    limit = _SHAPES_PER_LAYER * len(layers)  # every layer is its own to the compiler
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, limit)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, limit)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
