"""What decoding needs from a causal model: rows of cached tokens that grow piece by piece, heads they share.

`open_network` takes the batched implementation (`agentkd.models.llama`) for the architectures that it knows,
and `ModuleNetwork`, which runs any transformers model row by row, for the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agentkd import hf
from agentkd.errors import NotFoundError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["Head", "ModuleNetwork", "Network", "Piece", "open_network"]


@dataclass(frozen=True, eq=False)
class Head:
    """The keys and values of tokens that several rows begin with; read-only."""

    ids: tuple[int, ...]
    """The tokens."""
    state: Any
    """Keys and values, in the form of the network that made them."""


@dataclass(frozen=True)
class Piece:
    """Tokens that are appended to one row, and for how many of the last ones logits are wanted."""

    row: int
    """Row that `open` gave."""
    ids: Sequence[int]
    """Tokens to append, at least one."""
    n_logits: int = 1
    """Logits are returned for this many of the last tokens."""


class Network(Protocol):
    """A causal language model with adapters, shared heads and growing rows; used by one thread."""

    n_positions: int
    """Longest row, head included."""
    n_vocab: int
    """Size of the logits."""

    def twin(self) -> Network | None:
        """Return a network with rows of its own on the same weights, or None if that cannot be."""

    def use_adapter(self, name: str | None, folder: Path | None = None) -> None:
        """Switch to the adapter `name`, loading it from `folder` on first use; None is the bare base."""

    def head(self, ids: Sequence[int], after: Head | None = None) -> Head:
        """Compute the head of `ids`, which begins with the tokens of `after`."""

    def open(self, head: Head | None, room: int) -> int:
        """Open a row behind `head` with room for at least `room` tokens, and return its number."""

    def close(self, row: int) -> None:
        """Give a row back."""

    def extend(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Append the pieces (one per row at most); return float32 logits `[sum of n_logits, n_vocab]`."""


def open_network(path: Path, dtype: str = "auto", device: str = "auto") -> Network:
    """Load the model in `path` and return the fastest network that can run it. Raises ModelError."""
    from agentkd.models.llama import LlamaNetwork

    model = hf.load_model(path, dtype, device)
    if LlamaNetwork.fits(model):
        return LlamaNetwork(model)
    return ModuleNetwork(model)


class ModuleNetwork:
    """Runs any causal transformers model, one row at a time: the reference, and the fallback."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._adapters: set[str] = set()
        self._is_bare = True
        self._rows: dict[int, Any] = {}
        self._next_row = 0
        text_config = model.config.get_text_config()
        self.n_positions = int(text_config.max_position_embeddings)
        self.n_vocab = int(model.get_output_embeddings().weight.shape[0])

    def twin(self) -> None:
        """Return None: peft switches adapters inside the model's modules."""

    def use_adapter(self, name: str | None, folder: Path | None = None) -> None:
        """Switch adapters through peft."""
        if name is not None and name not in self._adapters:
            if folder is None:
                raise NotFoundError(f"no adapter `{name}` is loaded")
            self._model = hf.attach_adapter(self._model, folder, _module_name(name))
            self._adapters.add(name)
        if name is not None:
            self._model.set_adapter(_module_name(name))
            self._model.requires_grad_(False)
        self._is_bare = name is None

    def head(self, ids: Sequence[int], after: Head | None = None) -> Head:
        """Compute a head as a transformers cache."""
        cache, start = self._cache_after(after), len(after.ids) if after else 0
        self._forward(cache, ids[start:], 1)
        return Head(tuple(ids), cache)

    def open(self, head: Head | None, room: int) -> int:
        """Open a row on a copy of the head's cache."""
        self._next_row += 1
        self._rows[self._next_row] = self._cache_after(head)
        return self._next_row

    def close(self, row: int) -> None:
        """Drop the row's cache."""
        del self._rows[row]

    def extend(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Append piece by piece."""
        import torch

        return torch.cat([self._forward(self._rows[p.row], p.ids, p.n_logits) for p in pieces])

    def _cache_after(self, head: Head | None) -> Any:
        from transformers import DynamicCache

        return copy.deepcopy(head.state) if head else DynamicCache(config=self._model.config)

    def _forward(self, cache: Any, ids: Sequence[int], n_logits: int) -> torch.Tensor:
        import contextlib

        import torch

        bare = self._adapters and self._is_bare
        with torch.inference_mode(), self._model.disable_adapter() if bare else contextlib.nullcontext():
            tokens = torch.tensor([list(ids)], device=self._model.device)
            out = self._model(
                tokens, past_key_values=cache, use_cache=True, logits_to_keep=n_logits, return_dict=True
            )
            logits: torch.Tensor = out.logits[0].float()
            return logits


def _module_name(name: str) -> str:
    # torch forbids dots in module names; checkpoint names may hold them.
    return name.replace(".", "_")
