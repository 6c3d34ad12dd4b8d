"""The tables `[place]` and `[cycle]`: what a cycle does, when it is due, and what it may take."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema import Value

__all__ = ["CycleSettings", "PlaceSettings"]


class PlaceSettings(Value):
    """`[place]`: whether memories belong in the weights or in the context, cluster by cluster."""

    split: str = ""
    """Split on which places are measured, neither the one that is learnt from nor the one that the gate
    decides on. Empty shows the figures of the gate's tasks and lets nothing follow them: what judges must not
    steer what is trained."""
    min_tasks: int = Field(default=20, ge=1)
    """Tasks that must have recalled a cluster before its figures decide; else facts stay in the
    context and all other memories are compiled."""
    extra_tasks: int = Field(default=0, ge=0)
    """Tasks of a cluster that are run again with it alone withheld, where other memories were recalled too;
    0 measures on the tasks of the evaluation that recalled nothing else."""
    alike: float = Field(default=0.5, ge=-1.0, le=1.0)
    """Average cosine similarity of situations from which two groups of memories are one cluster."""
    max_clusters: int = Field(default=8, ge=0)
    """Clusters that are judged, those that most tasks recalled; 0 judges none."""
    horizon: int = Field(default=1000, ge=1)
    """Tasks of a cluster over which the cost of its training is shared out."""
    lasts: int = Field(default=5, ge=1)
    """Measurements that a decision holds for; then the cluster is compiled and tried in weights anew."""
    band: float = Field(default=0.02, ge=0.0)
    """Difference of success rates that is no difference."""
    usd_per_hour: float = Field(default=0.0, ge=0.0)
    """Price of an hour of training, where models have prices and costs are in money."""


class CycleSettings(Value):
    """`[cycle]`: one round of self-improvement."""

    suite: str = ""
    """Suite to learn on; empty learns from what is already in the ledger and cannot be gated."""
    split: str = "train"
    """Split to run on."""
    n: int | None = None
    """Tasks to run on; None takes all."""
    rounds: int = 1
    """Cycles in a row."""
    min_new_memories: int = 8
    """Fewer compilable memories, new since the last compilation, end the cycle before `compile`."""
    min_gain: float = Field(default=20.0, ge=0.0)
    """Expected gain (tokens per task that compiling would save, weighed by measured lift) from which fewer
    new memories are enough."""
    due_trajectories: int = Field(default=64, ge=1)
    """New trajectories from which `agentkd cycle --if-due` runs a cycle."""
    poll_seconds: float = Field(default=300.0, gt=0.0)
    """Seconds between two looks of `agentkd cycle --watch`."""
    max_seconds: float | None = Field(default=None, gt=0.0)
    """Wall time of one call; then it stops between two items, keeps what is done, and the next goes on."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one call, those of local models included; then it stops as above."""
    max_usd: float | None = Field(default=None, gt=0.0)
    """Money of one call; then it stops as above. Unknown prices count as nothing: `[models] max_usd`
    refuses such calls."""
    day_seconds: float | None = Field(default=None, gt=0.0)
    """Wall time of all cycles in 24 hours; then none is due."""
    day_tokens: int | None = Field(default=None, ge=1)
    """Tokens of all cycles in 24 hours; then none is due."""
    day_usd: float | None = Field(default=None, gt=0.0)
    """Money of all cycles in 24 hours; then none is due."""
    lease_seconds: float = Field(default=60.0, gt=0.0)
    """Time after which the cycle of a process that no longer renews its lease may be gone on with elsewhere;
    a dead process of the same machine is not waited for."""
    seed: int = 0
    """Seed of sampling and bootstrap; `[train] seed` is that of training."""
