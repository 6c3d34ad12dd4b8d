"""Workspace: the object an application holds; every command of the CLI wraps one of its methods."""

from __future__ import annotations

from agentkd.workspace.learning import Learning
from agentkd.workspace.serving import Serving

__all__ = ["Workspace"]


class Workspace(Learning, Serving):
    """A folder with a ledger, memories, datasets, checkpoints and reports.

    Opening one is cheap: parts are built when they are first used. Use it as a context manager, or
    call `close`, to release the index for other processes.
    """
