"""Weights in the order, names and types of a GGUF file, and back again.

llama.cpp keeps the rows of the query and key projections of llama-type models with the two halves of each
head interleaved, and the norms of Gemma with one added; everything else is named otherwise and no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch

__all__ = ["Layout", "gguf_package"]

_ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "gemma3_text": "gemma3"}
"""Architecture of llama.cpp by `model_type` of transformers: those whose tensors are known to be laid out
right. llama.cpp permutes rows of others too; a file in the wrong layout would read back as it was written."""

_PERMUTED = {"llama": ("q_proj", "k_proj")}


def gguf_package() -> Any:
    """Import `gguf`; raises MissingExtraError where it is absent."""
    try:
        import gguf
    except ImportError:
        raise MissingExtraError.of("gguf", "train", "a GGUF export") from None
    return gguf


@dataclass(frozen=True)
class Layout:
    """How the tensors of one base model stand in a GGUF file."""

    architecture: str
    """Its name in llama.cpp."""
    config: dict[str, Any]
    """`config.json` of the base."""

    @classmethod
    def of(cls, base: Path) -> Layout:
        """Read the layout for a model folder.

        Raises CheckpointError for an architecture that llama.cpp or this module does not know.
        """
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        kind = str(config["model_type"])
        architecture = _ARCHITECTURES.get(kind, kind)
        known = set(gguf_package().MODEL_ARCH_NAMES.values())
        if kind not in _ARCHITECTURES or architecture not in known:
            who = "agentkd writes no GGUF of" if architecture in known else "llama.cpp knows no"
            raise CheckpointError(
                f"{who} architecture `{kind}`", hint="export it as `merged` or `peft`", architecture=kind
            )
        return cls(architecture, config)

    def namer(self) -> Callable[[str], str]:
        """Return the function from a parameter's name (`model.layers.0...weight`) to llama.cpp's."""
        gguf = gguf_package()
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(kinds[self.architecture], int(self.config["num_hidden_layers"]))

        def name_of(parameter: str) -> str:
            name = table.get_name(parameter, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise CheckpointError(
                    f"llama.cpp has no name for `{parameter}` of architecture `{self.architecture}`",
                    hint="export it as `merged` or `peft`",
                )
            return str(name)

        return name_of

    def stored(self, parameter: str, tensor: torch.Tensor, *, back: bool = False) -> torch.Tensor:
        """Return a parameter (or the B of its adapter) as the file keeps it; `back` undoes that."""
        heads = self._heads(parameter)
        if heads:
            return _reorder(tensor, heads, back=back)
        if self.architecture == "gemma3" and parameter.endswith("norm.weight"):
            return tensor - 1.0 if back else tensor + 1.0
        return tensor

    def _heads(self, parameter: str) -> int:
        """Return the number of heads whose rows stand in another order; 0 for none."""
        module = parameter.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        if module not in _PERMUTED.get(self.architecture, ()):
            return 0
        heads = int(self.config["num_attention_heads"])
        return heads if module == "q_proj" else int(self.config.get("num_key_value_heads") or heads)


def _reorder(rows: torch.Tensor, heads: int, *, back: bool = False) -> torch.Tensor:
    """Interleave the rotary halves of each head, or put them apart again; `[out, ...]`."""
    half = rows.shape[0] // heads // 2
    shape = (heads, half, 2) if back else (heads, 2, half)
    return rows.reshape(*shape, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
