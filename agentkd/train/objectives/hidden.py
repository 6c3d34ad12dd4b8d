"""Losses on states, for two local models: match them through a linear map, or match their relations."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import ConfigError, TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = ["HiddenMse", "HiddenMseSettings", "Relations", "RelationsSettings"]

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class HiddenMseSettings(Value):
    """Options of the objective `hidden-mse`."""

    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Learning rate of the map from student to teacher states (Adam); the adapter has its own."""


class RelationsSettings(Value):
    """Options of the objective `minilm-relations`."""

    heads: int = Field(default=8, ge=1)
    """Heads that the states of both models are split into; must divide both widths."""


class HiddenMse:
    """Mean squared error between the teacher's state and a linear map of the student's, per label.

    Both states are scaled to mean square 1 first, so that models of any width and depth compare. The map
    starts as the identity (as a fixed random one between unlike widths) and is trained beside the adapter by
    an Adam of its own; it is in the resumable saves and never in the adapter.
    """

    name = "hidden-mse"
    requires: frozenset[str] = frozenset({"teacher-hidden"})
    gathers_state = True

    def __init__(self, settings: HiddenMseSettings) -> None:
        self.settings = settings
        self._tensors: dict[str, torch.Tensor] = {}  # the map, and Adam's two means
        self._n_updates = 0
        self._step = 0

    def prepare(self, n_steps: int) -> None:
        """Need nothing: the map is made when both widths are known."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean error as the term `hidden-mse`; raises TrainError without states."""
        student, teacher = _states(self.name, context)
        if context.step != self._step:
            self._update()
            self._step = context.step
        error = (_scaled(student) @ self._map(student, teacher.shape[1]) - _scaled(teacher)).square().mean(-1)
        return {self.name: (error * context.weights.to(error.dtype)).sum() / context.normaliser}

    def _map(self, student: torch.Tensor, width: int) -> torch.Tensor:
        """Return the map `[width of the student, width of the teacher]` as a leaf that gathers gradient."""
        import torch

        if "map" not in self._tensors:
            generator = torch.Generator().manual_seed(0)
            own = student.shape[1]
            start = torch.randn(own, width, generator=generator) / math.sqrt(own)
            start = torch.eye(own) if own == width else start
            zeros = torch.zeros_like(start)
            self._tensors = {"map": start, "mean": zeros, "square": zeros.clone()}
        if self._tensors["map"].shape[1] != width or self._tensors["map"].shape[0] != student.shape[1]:
            raise TrainError(f"the map of `{self.name}` was saved for models of other widths")
        if not self._tensors["map"].requires_grad:
            self._tensors = {
                key: value.to(student.device, student.dtype) for key, value in self._tensors.items()
            }
            self._tensors["map"] = self._tensors["map"].detach().requires_grad_()
        return self._tensors["map"]

    def _update(self) -> None:
        """Take one step of Adam with the gradient that the chunks of the last step have left, if any."""
        import torch

        weights = self._tensors.get("map")
        if weights is None or weights.grad is None:
            return
        self._n_updates += 1
        first, second = _BETAS
        with torch.no_grad():
            mean = self._tensors["mean"].lerp_(weights.grad, 1 - first)
            square = self._tensors["square"].lerp_(weights.grad.square(), 1 - second)
            size = (square / (1 - second**self._n_updates)).sqrt_().add_(_EPSILON)
            weights -= self.settings.learning_rate / (1 - first**self._n_updates) * mean / size
        weights.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the map and its optimiser, exact to the bit, after the last step's update."""
        self._update()
        tensors = {key: _packed(value) for key, value in self._tensors.items()}
        return {"tensors": tensors, "n_updates": self._n_updates, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._tensors = {key: _unpacked(value) for key, value in state["tensors"].items()}
        self._n_updates, self._step = int(state["n_updates"]), int(state["step"])


_RELATION_TENSORS = 6  # float32 `[heads, m, m]` that are alive at one time, as measured


class Relations:
    """KL between how the labels of one row relate to each other in the teacher and in the student.

    The relations of a head are ``softmax(H H' / sqrt(d))`` over the labels of the row with a weight, H its
    share of the last states, scaled to mean square 1. Heads are re-split to a common number, so the widths
    may differ. The trainer never cuts a row into two chunks for this loss (`whole_rows`).

    Source: W. Wang et al., MiniLMv2, arXiv 2012.15828, section 3; there of queries, keys and values.
    """

    name = "minilm-relations"
    requires: frozenset[str] = frozenset({"teacher-hidden"})
    whole_rows = True
    is_divergence = True

    def __init__(self, settings: RelationsSettings) -> None:
        self.settings = settings

    def row_bytes(self, n_labels: int) -> int:
        """Return the bytes of the relations of a row, of both models, forward and backward."""
        return _RELATION_TENSORS * 4 * n_labels**2 * self.settings.heads

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean divergence as the term `minilm-relations`; raises TrainError without states."""
        import torch

        student, teacher = _states(self.name, context)
        total = student.sum() * 0.0
        for row in torch.unique_consecutive(context.rows):
            kept = ((context.rows == row) & (context.weights > 0)).nonzero()[:, 0]
            if len(kept) < 2:
                continue  # one label relates to nothing
            log_p, log_q = self._relations(teacher[kept]), self._relations(student[kept])
            divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean(0)
            total = total + (divergence * context.weights[kept].to(divergence.dtype)).sum()
        return {self.name: total / context.normaliser}

    def _relations(self, states: torch.Tensor) -> torch.Tensor:
        """Return log-relations `[heads, m, m]` of states `[m, width]`."""
        heads, (n, width) = self.settings.heads, states.shape
        if width % heads:
            raise ConfigError(
                f"`[train.objective.{self.name}] heads` = {heads} does not divide a width of {width}",
                hint="take a number that divides the widths of both models",
            )
        split = _scaled(states.view(n, heads, width // heads)).transpose(0, 1)
        relations: torch.Tensor = (split @ split.transpose(1, 2)) / math.sqrt(width // heads)
        return relations.log_softmax(-1)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


def _states(name: str, context: StepContext) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states of student and teacher in one type, float32 at least."""
    import torch

    if context.hidden is None or context.teacher_hidden is None:
        raise TrainError(f"`{name}` was given no states of a teacher")
    dtype = torch.promote_types(context.hidden.dtype, torch.float32)
    return context.hidden.to(dtype), context.teacher_hidden.to(dtype)


def _scaled(states: torch.Tensor) -> torch.Tensor:
    """Return states with a mean square of 1 along the last axis."""
    scaled: torch.Tensor = states * (states.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return scaled


def _packed(tensor: torch.Tensor) -> dict[str, Any]:
    import torch

    exact = tensor.detach().cpu().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    text = base64.b64encode(exact.contiguous().numpy().tobytes()).decode()
    return {"shape": list(exact.shape), "dtype": str(exact.dtype).removeprefix("torch."), "bytes": text}


def _unpacked(packed: Mapping[str, Any]) -> torch.Tensor:
    import torch

    dtype = {"float32": torch.float32, "float64": torch.float64}[packed["dtype"]]
    whole = torch.frombuffer(bytearray(base64.b64decode(packed["bytes"])), dtype=dtype)
    return whole.view(packed["shape"])
