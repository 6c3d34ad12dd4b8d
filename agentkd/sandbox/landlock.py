"""The sandbox `sandlock`: Landlock for files, seccomp for the rest, a supervisor for memory and processes."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

from agentkd.protocols import Ran
from agentkd.sandbox.backend import Backend
from agentkd.sandbox.limits import SandboxSettings, interpreter, read_output, readable

__all__ = ["SandlockSandbox", "build"]

_MAX_PROCESSES = 8
_CODE, _WORK = "code.py", "work"
_UNCOUNTED = ("memfd_create", "memfd_secret", "shmget", "msgget", "semget", "vmsplice", "setsockopt")
"""System calls for memory that a process keeps without mapping it, which no limit counts; the last one makes
the buffers of a socketpair large."""


class SandlockSandbox(Backend):
    """Runs code under the package `sandlock`; needs Linux 6.7 or later with Landlock, and no rights."""

    name = "sandlock"

    def why_not(self) -> str:
        """Return why it does not work here: no package, or a kernel without what it needs."""
        return _why_not()

    def _confined(self, code: str) -> Ran:
        return _run(code, self._settings)


def build(settings: SandboxSettings, kit: Any) -> SandlockSandbox:
    """Make one."""
    return SandlockSandbox(settings)


@functools.lru_cache
def _why_not() -> str:
    if sys.platform != "linux":
        return "it needs Linux"
    try:
        import sandlock
    except (ImportError, OSError) as error:
        return f"the package `sandlock` is not installed (pip install 'agentkd[sandbox]'): {error}"
    has, needs = sandlock.landlock_abi_version(), sandlock.min_landlock_abi()
    if has < needs:
        return f"the kernel's Landlock has version {has}, and {needs} is needed"
    try:
        ran = _run("print('confined')", SandboxSettings())
    except Exception as error:  # the binding raises what its library says
        return f"it failed: {error}"
    return "" if ran.output == "confined\n" else f"it failed: {ran.output.strip()[-200:]}"


def _run(code: str, settings: SandboxSettings) -> Ran:
    from sandlock import BranchAction, Sandbox, StdioMode

    with tempfile.TemporaryDirectory(prefix="agentkd-sandbox-") as place:
        program, work, store = Path(place, _CODE), Path(place, _WORK), Path(place, "store")
        program.write_text(code, encoding="utf-8", errors="replace")
        for folder in (work, store):
            folder.mkdir()
        box = Sandbox(
            fs_readable=[*readable(), str(program)],
            fs_writable=[str(work)],
            workdir=str(work),
            cwd=str(work),
            fs_storage=str(store),
            max_disk=f"{settings.max_disk_mib}M",
            on_exit=BranchAction.ABORT,
            on_error=BranchAction.ABORT,
            max_memory=f"{settings.max_memory_mib}M",
            extra_deny_syscalls=list(_UNCOUNTED),
            max_processes=_MAX_PROCESSES,
            max_open_files=64,
            clean_env=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(work)},
            no_coredump=True,
        )
        command = [interpreter(), "-I", "-c", settings.launcher(str(program))]
        process = box.popen(command, stdin=StdioMode.NULL, stdout=StdioMode.PIPED, stderr=StdioMode.NULL)
        try:
            output, ended = read_output(process.stdout.fileno(), settings, process.kill)
        finally:
            process.stdout.close()
            result = process.wait(timeout=1.0)  # ends what is left of it
    signal = getattr(result, "signal", -1)
    return Ran(output=output, exit_code=-signal if signal > 0 else result.exit_code, ended=ended)
