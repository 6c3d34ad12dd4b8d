"""Load tokenizers and models from a local folder, and turn a GGUF file into one."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "convert_gguf",
    "fastest_dtype",
    "load_config",
    "load_model",
    "load_tokenizer",
    "n_cores",
    "pick_device",
]

_MIN_GAIN = 1.15  # bf16 must be clearly faster; otherwise float32 is the safer choice


def load_config(path: str | Path) -> PreTrainedConfig:
    """Load the configuration of a model folder; code in the folder is never run. Raises ModelError."""
    with _loading(path, "configuration") as transformers:
        config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
        return config


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder; code in the folder is never run. Raises ModelError."""
    with _loading(path, "tokenizer") as transformers:
        return _fast(
            transformers.AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            ),
            path,
        )


def load_model(path: str | Path, dtype: str | torch.dtype = "auto", device: str = "auto") -> PreTrainedModel:
    """Load a causal model in evaluation mode, from safetensors alone. Raises ModelError.

    `dtype` is `float16`, `bfloat16`, `float32` or `float64`, a torch type, or `auto` (the faster one on this
    device).
    """

    device = pick_device(device)
    wanted = fastest_dtype(device) if dtype == "auto" else dtype
    if isinstance(wanted, str):
        wanted = _dtype(wanted)
    with _loading(path, "model") as transformers:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(path), dtype=wanted, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        model = model.to(device).eval()
    model.requires_grad_(False)
    return model


def _dtype(name: str) -> torch.dtype:
    import torch

    known = {
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
        "float64": torch.float64,
    }
    if name not in known:
        raise ModelError(f"no model is loaded as `{name}`", hint=f"one of {', '.join(known)}")
    return known[name]


def convert_gguf(gguf_file: Path, folder: Path) -> None:
    """De-quantise `gguf_file` into the existing `folder`: bf16 safetensors, config, tokenizer, chat template.

    A model that transformers read from GGUF can be neither saved nor trained (it stays marked as quantised),
    so its weights move into a fresh model without that mark.
    """
    import torch

    with _loading(gguf_file, "GGUF file") as transformers:
        where = {"gguf_file": gguf_file.name, "local_files_only": True, "trust_remote_code": False}
        tokenizer = _fast(
            transformers.AutoTokenizer.from_pretrained(str(gguf_file.parent), **where), gguf_file
        )
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            str(gguf_file.parent), dtype=torch.float32, **where
        )
        config = loaded.config
        del config.quantization_config
        config.name_or_path = ""
        with transformers.initialization.no_init_weights():
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        missing, unexpected = model.load_state_dict(loaded.state_dict(), strict=False)
        if unexpected or [name for name in missing if not name.endswith("lm_head.weight")]:
            raise ModelError(f"GGUF file `{gguf_file.name}` lacks weights: {[*missing, *unexpected][:3]}")
        model.tie_weights()
        model.generation_config = loaded.generation_config
        model.save_pretrained(str(folder), safe_serialization=True)
        tokenizer.save_pretrained(str(folder))


def pick_device(device: str = "auto") -> str:
    """Return `device`, with `auto` resolved to CUDA where there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def n_cores() -> int:
    """Return the CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@functools.lru_cache
def fastest_dtype(device: str = "cpu") -> torch.dtype:
    """Measure float32 against bfloat16 on this machine (50 ms, once) and return the faster type."""
    import torch

    if device != "cpu":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    seconds = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            a, b = torch.ones(128, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
            a @ b
            seconds[dtype] = min(_timed(lambda a=a, b=b: a @ b) for _ in range(7))
    is_worth_it = seconds[torch.float32] > _MIN_GAIN * seconds[torch.bfloat16]
    return torch.bfloat16 if is_worth_it else torch.float32


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _fast(tokenizer: Any, path: str | Path) -> PreTrainedTokenizerFast:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"`{path}` has no tokenizer.json", hint="save it with a fast tokenizer first")
    return tokenizer


@contextmanager
def _loading(path: str | Path, what: str) -> Iterator[Any]:
    """Yield a quiet transformers; every failure becomes one ModelError that names `path`."""
    if not Path(path).exists():
        raise ModelError(f"cannot load the {what}: `{path}` does not exist", path=str(path))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError.of(error.name or "transformers", "train", f"loading `{path}`") from None
    transformers.utils.logging.disable_progress_bar()
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield transformers
    except ModelError:
        raise
    except ImportError as error:
        raise MissingExtraError.of(error.name or "transformers", "train", f"loading `{path}`") from error
    except Exception as error:  # transformers raises whatever its parsers raise
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"cannot load the {what} `{path}`: {type(error).__name__}: {first}",
            hint="the folder needs config.json, *.safetensors and tokenizer.json of a causal language model",
            path=str(path),
        ) from error
    finally:
        logger.setLevel(level)
