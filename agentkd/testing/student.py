"""A student that trains in seconds: a random model with a real tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

__all__ = ["tiny_student"]


def tiny_student(folder: str | Path, seed: int = 0) -> str:
    """Write a tiny random model to `folder` and return its source, `path:<folder>`.

    Set it as `[roles] student`: every real code path runs, at a thousandth of the cost.
    """
    from agentkd import hf

    return f"path:{hf.tiny_model(folder, seed=seed)}"
