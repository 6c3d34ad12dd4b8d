"""Settings of the suites `llb-db` and `llb-db-steps`."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema import Value

__all__ = ["LlbDbSettings"]


class LlbDbSettings(Value):
    """`[suite.llb-db]` and `[suite.llb-db-steps]`: where the tasks are and which are taken."""

    path: str = ""
    """Folder of the file; empty: AGENTKD_LLB, AGENTKD_DATA/llb, or `shared/data/llb` in a folder above."""
    file: str = "db_train.json"
    """File of tasks in the benchmark's shape: an object of tasks by key."""
    exclude: tuple[str, ...] = ("6", "213", "295", "302", "400", "81", "270", "392", "449")
    """Keys left out: for five the rows hang on MySQL's order of what nothing sorts; four are MySQL syntax."""
    holdout_every: int = Field(default=5, ge=2)
    """Tasks whose key is a multiple of this are held out."""
