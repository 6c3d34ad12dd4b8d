"""Lanes: who acts in a run, where that may be another one in the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentkd.protocols import Model
from agentkd.schema import Route

__all__ = ["Lane", "Router", "Serving"]


@dataclass(frozen=True)
class Lane:
    """A model with what follows from its choice."""

    model: Model
    """Model that acts."""
    checkpoint: str
    """Checkpoint behind it, or `base`: memories retired for it are not recalled."""
    shows_tools: bool
    """Whether its prompt describes the tools."""


class Router(Protocol):
    """Chooses a student per request."""

    def choose(self, text: str) -> Route:
        """Return the student for a request."""

    def model(self, checkpoint: str) -> Model:
        """Return the model of a student that `choose` names."""


class Serving(Protocol):
    """Knows which student serves: a promotion, a roll-back or a revocation may change it between two runs."""

    def checkpoint(self) -> str:
        """Return what serves now: a checkpoint's name, or `base`."""

    def model(self, checkpoint: str) -> Model:
        """Return the model of a checkpoint that `checkpoint` named, at present or before."""

    def aside(self, text: str, checkpoint: str) -> Route | None:
        """Return the route to the base where a checkpoint stands aside on a request; None where it acts."""
