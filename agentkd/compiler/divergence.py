"""The selector `divergence`: rows weigh by what the memories add to what the model would say anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agentkd import hf
from agentkd.protocols import Progress, SilentProgress
from agentkd.schema import Example, Rendered, Value

if TYPE_CHECKING:
    import torch

__all__ = ["DivergenceSelector", "DivergenceSettings"]

_CHUNK = 32  # label positions whose logits exist at one time


class DivergenceSettings(Value):
    """`[selector.divergence]`."""

    measure: Literal["kl", "gap"] = "kl"
    """`kl`: mean KL(teacher || student) over the vocabulary at the target's tokens; `gap`: mean gain in
    log-probability of these tokens. Both in nats per token."""
    scale: float = Field(default=0.5, gt=0.0)
    """Divergence at which a row weighs half of `max_weight`."""
    max_weight: float = Field(default=2.0, gt=0.0)
    """Weight of a row about which teacher and student could not differ more."""
    drop_below: float = Field(default=0.0, ge=0.0)
    """Rows with a smaller divergence are left out: the student knows without the memories."""


class DivergenceSelector:
    """Weigh rows by how much the base model with the memories differs from itself without them.

    Both views of a row go through the base model one after the other, and logits exist for a few label
    positions at a time, so that memory does not grow with the dataset. Rows without a teacher view weigh 1.
    """

    name = "divergence"
    needs_teacher = True

    def __init__(
        self,
        settings: DivergenceSettings | None = None,
        *,
        folder: Callable[[], Path],
        dtype: str = "auto",
        device: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        self.settings = settings or DivergenceSettings()
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._progress = progress or SilentProgress()
        self._model: Any = None

    def score(self, examples: Sequence[Example]) -> list[float]:
        """Return one weight per row."""
        with self._progress.bar("teacher against student", len(examples), "rows") as bar:
            scores = []
            for example in examples:
                scores.append(self._weight(example))
                bar.advance()
        return scores

    def divergence(self, teacher: Rendered, student: Rendered) -> float:
        """Return the mean divergence over the labels of two views of one row, in nats per token."""
        import torch

        if self._model is None:
            self._model = hf.load_model(self._folder(), self._dtype, self._device)
        with torch.inference_mode():
            views = [self._states(view) for view in (teacher, student)]
            head, total = self._model.get_output_embeddings(), 0.0
            for start in range(0, len(views[0][1]), _CHUNK):
                part = slice(start, start + _CHUNK)
                log_p, log_q = ((head(h[part]).float()).log_softmax(-1) for h, _ in views)
                if self.settings.measure == "kl":
                    total += float((log_p.exp() * (log_p - log_q)).sum())
                else:
                    said = views[0][1][part, None]
                    total += float((log_p.gather(1, said) - log_q.gather(1, said)).sum())
        return total / max(1, len(views[0][1]))

    def _weight(self, example: Example) -> float:
        if example.teacher is None:
            return 1.0
        found = max(0.0, self.divergence(example.teacher, example.student))
        if found < self.settings.drop_below:
            return 0.0
        return round(self.settings.max_weight * found / (found + self.settings.scale), 3)

    def _states(self, view: Rendered) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states that predict a view's labels, `[label, width]`, and the labels."""
        import torch

        labels = [place for place, weight in enumerate(view.weights) if weight]
        ids = torch.tensor([view.ids], device=self._model.device)
        states = self._model.base_model(input_ids=ids).last_hidden_state[0]
        return states[[place - 1 for place in labels]], ids[0, labels]
