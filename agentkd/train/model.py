"""The model that is trained: loaded (in 4 bits where asked), and with what saves memory or time.

`compile` is experimental: every decoder layer is translated with torch.compile, which takes minutes, again
where a pack has another number of length groups. On a CPU (torch 2.13) its gradients of packs were measured
to be wrong by 30 % and more, so that it is refused there; elsewhere they are compared with those of the
layers themselves before the first step.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from agentkd import hf
from agentkd.errors import ConfigError, MissingExtraError, ModelError, TrainError
from agentkd.schema import TrainJob, TrainSettings
from agentkd.train.body import Body
from agentkd.train.lora import without_dropout
from agentkd.train.packing import make_packs
from agentkd.train.rows import View

__all__ = ["check_settings", "decoder_layers", "load_base", "recompute_activations", "translate"]

_SHAPES_PER_LAYER = 8
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of gradients, translated and not


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
    if settings.compile and device == "cpu":
        raise ConfigError(
            "`[train] compile` is for CUDA alone: translated for a CPU, packs get wrong gradients",
            hint="set `compile = false`",
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


def translate(body: Body, views: Sequence[View]) -> None:
    """Translate every decoder layer with torch.compile, for packs of any length.

    Raises TrainError where the translation gives other gradients than the layers themselves, on two rows.
    """
    layers = list(decoder_layers(body.model))
    limit = _SHAPES_PER_LAYER * len(layers)  # every layer is its own to the compiler
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, limit)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, limit)
    pair = sorted(views, key=lambda view: view.n_tokens)[:2]
    with without_dropout(body.model), _moved(body.model):
        wanted = _gradients(body, pair)
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        found = _gradients(body, pair)
    error = float((found - wanted).norm() / wanted.norm())
    if not error < _TOLERANCE.get(body.dtype, 1e-3):
        raise TrainError(
            f"torch.compile gives `{type(layers[0]).__name__}` other gradients: they differ by {error:.2g}",
            hint="set `[train] compile = false`",
        )


def _gradients(body: Body, views: Sequence[View]) -> torch.Tensor:
    """Return the gradient of all trained parameters on the views in one vector, and leave none behind."""
    for part in (views, views[:1], views[1:]):  # packs of several lengths
        for pack in make_packs(part, sum(view.n_tokens for view in part)):
            body.hidden(pack).float().square().sum().backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in body.model.parameters() if parameter.requires_grad]
    found = [p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten() for p in trained]
    body.model.zero_grad(set_to_none=True)
    return torch.cat(found)


@contextmanager
def _moved(model: Any) -> Iterator[None]:
    """Move the adapter from its start, where half of its gradient is zero; put it back at the end."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            noise = torch.linspace(-1.0, 1.0, parameter.numel(), device=parameter.device)
            parameter.add_(0.05 * noise.view_as(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(trained, kept, strict=True):
                parameter.copy_(before)
