"""Settings of the suite `bfcl-live`."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema import Value

__all__ = ["BfclLiveSettings"]


class BfclLiveSettings(Value):
    """`[suite.bfcl-live]`: which requests are taken and how they are split."""

    source: str = "wheel:bfcl-eval==2026.3.23"
    """Data wheel, or a folder (`path:`) that holds `bfcl_eval/data`."""
    sha256: str = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
    """Hash that the wheel must have."""
    n_tools: int = Field(default=26, ge=2)
    """Tools that are offered: those with the most requests."""
    min_requests: int = Field(default=9, ge=2)
    """Tools with fewer requests are not among them."""
    train: int = Field(default=491, ge=1)
    """Requests to learn from; what is left beyond them is not used."""
    holdout: int = Field(default=200, ge=1)
    """Requests held out, with tools that also occur in training."""
    dev_share: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of the training requests in the split `dev`, for tuning; the rest is `train-inner`."""
    seed: int = 7
    """Seed of the splits."""
