"""How likely a model finds what was said: log-probabilities of replies, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentkd.hf.adapter import attach_adapter
from agentkd.hf.anchor import log_probs
from agentkd.hf.loading import load_model, load_tokenizer
from agentkd.hf.render import as_text, render_example
from agentkd.schema import Message

__all__ = ["ReplyScorer", "ScoredReply"]


class ScoredReply(NamedTuple):
    """A reply with how likely each of its tokens was."""

    text: str
    """What was said."""
    ends: tuple[int, ...]
    """Where in the text each token ends, `[token]`; the end of the turn is left out."""
    log_probs: tuple[float, ...]
    """Log-probability of each token after all before it, in nats, `[token]`."""


class ReplyScorer:
    """A base model, bare or with one of several adapters, that is asked how likely replies are."""

    def __init__(self, base: str | Path, adapters: Mapping[str, Path | None]) -> None:
        """Load a base in float32 and its adapters by name; a name without one stands for the bare base.

        Raises ModelError or CheckpointError where a folder does not hold what it should.
        """
        self.tokenizer = load_tokenizer(base)
        self._known = frozenset(name for name, folder in adapters.items() if folder is not None)
        self._model: Any = load_model(base, dtype="float32")
        for name, folder in adapters.items():
            if folder is not None:
                self._model = attach_adapter(self._model, folder, name)

    def score(self, prompt: Sequence[Message], reply: Message, by: str = "") -> ScoredReply:
        """Return how likely a reply is after a prompt, by an adapter or by the bare base.

        Raises DataError where the reply cannot be rendered under the chat template.
        """
        rendered = render_example(self.tokenizer, prompt, reply)
        first = next(place for place, weight in enumerate(rendered.weights) if weight)
        said = rendered.ids[first:-1]  # the last token ends the turn
        found = self.log_probs(rendered.ids, first, by)[: len(said)]
        picked = [float(row[token]) for row, token in zip(found, said, strict=True)]
        ends = tuple(len(self._decode(said[: number + 1])) for number in range(len(said)))
        return ScoredReply(as_text(reply), ends, tuple(picked))

    def log_probs(self, ids: Sequence[int], first: int, by: str = "") -> Any:
        """Return the log-probabilities `[time - first, vocabulary]` of what may stand from `first` on."""
        import torch

        tokens = torch.tensor([list(ids)], device=self._model.device)
        with torch.inference_mode():
            if by in self._known:
                self._model.set_adapter(by)
                return log_probs(self._model, tokens, first)
            if not self._known:
                return log_probs(self._model, tokens, first)
            with self._model.disable_adapter():
                return log_probs(self._model, tokens, first)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
