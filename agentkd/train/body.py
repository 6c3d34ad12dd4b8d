"""The model as training sees it: packs in, states and logits at label positions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from agentkd.errors import DataError, TrainError
from agentkd.train.attention import Layout, packed_attention
from agentkd.train.packing import Pack, make_packs
from agentkd.train.rows import View

__all__ = ["Body"]

_ATTENTION = "agentkd-packed"
_TOLERANCE = 1e-3  # of logits in float32, relative to their norm
_NOISE = {torch.bfloat16: 5e-2}  # what rounding alone may come to; a student that was trained hard has more


class Body:
    """A causal model with an adapter, split into its layers and its head."""

    def __init__(self, model: Any) -> None:
        """Take a peft-wrapped (or plain) causal model of transformers."""
        from transformers import AttentionInterface

        AttentionInterface.register(_ATTENTION, packed_attention)
        self.model = model
        self._causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._layers = self._causal.base_model
        self._head = self._causal.get_output_embeddings()
        config = self._causal.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.n_vocabulary: int = self._head.weight.shape[0]
        self.device: torch.device = self._head.weight.device
        self.dtype: torch.dtype = self._head.weight.dtype

    @property
    def dtype_name(self) -> str:
        """Name of the type that it computes in, as settings write it."""
        return str(self.dtype).removeprefix("torch.")

    def hidden(self, pack: Pack) -> torch.Tensor:
        """Return the states that predict the pack's labels, `[n, width]`."""
        states = self._layers(
            input_ids=torch.tensor([pack.tokens], device=self.device),
            position_ids=torch.tensor([pack.positions], device=self.device),
            attention_mask=None,
            use_cache=False,
            layout=Layout(pack, self.device, self.dtype),
        ).last_hidden_state[0]
        found: torch.Tensor = states.index_select(0, torch.tensor(pack.sources, device=self.device))
        return found

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits, `[n, v]`."""
        logits: torch.Tensor = self._head(hidden).float()
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Be the base model: the teacher of self-distillation needs no second set of weights."""
        with self.model.disable_adapter():
            yield

    @contextmanager
    def usual_attention(self) -> Iterator[Any]:
        """Give the causal model with attention over plain rows, as generation needs it."""
        packed = self._causal.config._attn_implementation
        self._causal.set_attn_implementation("sdpa")
        try:
            yield self._causal
        finally:
            self._causal.set_attn_implementation(packed)

    def end_ids(self) -> set[int]:
        """Return the tokens at which the model stops by its own configuration."""
        ends = getattr(self._causal.generation_config, "eos_token_id", None)
        return set() if ends is None else set(ends) if isinstance(ends, list) else {int(ends)}

    def pack_for_training(self, views: Sequence[View]) -> None:
        """Switch the packed attention on, after checking on two rows that it changes nothing.

        Raises DataError for token ids outside the vocabulary, TrainError where the architecture cannot be
        packed (recurrent layers, attention that drops keywords, extra scaling of the logits).
        """
        top = max(max(view.ids) for view in views)
        if top >= self.n_vocabulary:
            raise DataError(f"token id {top} is outside the model's vocabulary of {self.n_vocabulary}")
        pair = sorted(views, key=lambda view: view.n_tokens)[:2]
        plain = self._causal.config._attn_implementation
        error = self._packing_error(pair)
        is_wrong = not error < _NOISE.get(self.dtype, _TOLERANCE)
        if is_wrong and self.dtype in _NOISE and all(p.is_floating_point() for p in self.model.parameters()):
            self._causal.set_attn_implementation(plain)
            with self._in_float32():
                error = self._packing_error(pair)
                is_wrong = not error < _TOLERANCE
        if is_wrong:
            raise TrainError(
                f"`{type(self._causal).__name__}` cannot be trained packed: logits differ by {error:.2g}",
                hint="use a decoder with plain attention, such as Llama, Qwen2, Gemma or SmolLM",
            )

    def _packing_error(self, pair: Sequence[View]) -> float:
        """Switch the packed attention on and return by how much, relatively, it changes a row's logits."""
        with torch.inference_mode():
            wanted = [self._alone(view) for view in pair]
            self._causal.set_attn_implementation(_ATTENTION)
            found: list[list[torch.Tensor]] = [[] for _ in pair]
            for pack in make_packs(pair, sum(view.n_tokens for view in pair)):
                for (number, _), row in zip(pack.labels, self.logits(self.hidden(pack)), strict=True):
                    found[number].append(row)
            pairs = zip(wanted, found, strict=True)
            errors = [(one - torch.stack(other)).norm() / one.norm() for one, other in pairs]
            return float(torch.stack(errors).max())  # which keeps what is no number

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Widen all weights for a while; narrowing them again loses nothing."""
        before = [(parameter, parameter.dtype) for parameter in self.model.parameters()]
        dtype, self.dtype = self.dtype, torch.float32
        try:
            for parameter, _ in before:
                parameter.data = parameter.data.float()
            yield
        finally:
            self.dtype = dtype
            for parameter, kept in before:
                parameter.data = parameter.data.to(kept)

    def _alone(self, view: View) -> torch.Tensor:
        logits = self._causal(input_ids=torch.tensor([view.ids[:-1]], device=self.device)).logits[0]
        alone: torch.Tensor = logits[[label - 1 for label in view.labels]].float()
        return alone
