"""How a check complains: an AssertionError that is raised under `python -O` too."""

from __future__ import annotations

__all__ = ["claim"]


def claim(is_true: object, message: str) -> None:
    """Raise AssertionError with `message` where `is_true` is falsy."""
    if not is_true:
        raise AssertionError(message)
