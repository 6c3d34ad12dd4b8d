"""Sandboxes for code that a model wrote: `sandlock` (Landlock and seccomp) and `bubblewrap` (namespaces)."""

from __future__ import annotations

from agentkd.sandbox.bubblewrap import BubblewrapSandbox
from agentkd.sandbox.landlock import SandlockSandbox
from agentkd.sandbox.limits import SandboxSettings

__all__ = ["BubblewrapSandbox", "SandboxSettings", "SandlockSandbox"]
