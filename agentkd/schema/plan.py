"""What a training will take, before it starts."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema.base import Value

__all__ = ["Advice", "TrainPlan"]


class Advice(Value):
    """A setting that would better be another, and why."""

    key: str
    """Setting, such as `train.learning_rate`."""
    present: str
    """Its value."""
    better: str
    """The value advised."""
    why: str
    """Reason."""


class TrainPlan(Value):
    """A training before its first step: what it learns from, how this machine does it, what it will take."""

    dataset_id: str
    """Dataset that is trained on."""
    base_id: str
    """Fingerprint of the base model."""
    n_rows: int
    """Rows that some objective learns from."""
    n_dev: int
    """Rows on which the loss is watched."""
    n_tokens: int
    """Tokens of the rows, over all passes."""
    n_computed_tokens: int
    """Tokens that are computed, over all passes: a head that rows of a pack share counts once."""
    n_label_tokens: int
    """Trained tokens, over all passes."""
    n_steps: int
    """Optimiser steps."""
    n_parameters: int
    """Trained parameters."""
    objectives: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Objectives with what each requires; nothing for a loss on text alone."""
    teacher: str = ""
    """Who teaches; empty where no objective asks, and no chat model says the targets anew."""
    signals_cached: int = 0
    """Rows whose teacher signals, or answers of a chat teacher, are on disk."""
    signals_missing: int = 0
    """Rows whose teacher signals or answers would be computed or fetched first."""
    signals_seconds: float = 0.0
    """Time that the missing ones of a local teacher take."""
    device: str
    """Device of the model."""
    dtype: str
    """Compute type: as set, or the faster one as measured."""
    threads: int
    """Threads of torch in each process."""
    processes: int = 1
    """Processes that share the rows of a step."""
    pack_tokens: int
    """Most tokens that one pack computes."""
    pack_pairs: int
    """Most query-key pairs of one pack."""
    chunk_tokens: int
    """Label positions whose logits exist at one time."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass."""
    memory_mib: float
    """Predicted peak: resident memory of the process, or the GPU's for CUDA."""
    memory_limit_mib: float
    """What `[train] max_memory` comes to."""
    memory_parts: dict[str, float] = Field(default_factory=dict)
    """MiB of the imports, weights, adapter with optimiser, activations and logits."""
    seconds: float
    """Predicted time in optimiser steps, from a probe: of the GPU, or of a CPU that does nothing else."""
    probe_seconds: float = 0.0
    """Time that the probe took."""
    usd: float | None = 0.0
    """Money: nothing on one's own machine, None where a remote teacher's price is unknown."""
    warnings: tuple[str, ...] = ()
    """What looks wrong."""
    advice: tuple[Advice, ...] = ()
    """Settings that would better be others for this model and this much data."""
