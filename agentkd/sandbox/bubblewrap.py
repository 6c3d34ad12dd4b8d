"""The sandbox `bubblewrap`: own namespaces, a read-only system, and a filter of system calls."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any

from agentkd.protocols import Ran
from agentkd.sandbox.backend import Backend
from agentkd.sandbox.limits import SandboxSettings, interpreter, read_output, readable
from agentkd.sandbox.seccomp import seccomp_filter

__all__ = ["BubblewrapSandbox", "build"]

_CODE, _WORK = "/code.py", "/work"
_NOBODY = "65534"
_ALONE = [
    "--unshare-all",
    "--unshare-user",
    "--die-with-parent",
    "--new-session",
    "--clearenv",
    "--cap-drop",
    "ALL",
]


class BubblewrapSandbox(Backend):
    """Runs code under `bwrap`; needs the program and the kernel's user namespaces, and no rights."""

    name = "bubblewrap"

    def why_not(self) -> str:
        """Return why it does not work here: no program, no namespaces, or an unknown processor."""
        return _why_not()

    def _confined(self, code: str) -> Ran:
        return _run(code, self._settings)


def build(settings: SandboxSettings, kit: Any) -> BubblewrapSandbox:
    """Make one."""
    return BubblewrapSandbox(settings)


@functools.lru_cache
def _why_not() -> str:
    if sys.platform != "linux" or not seccomp_filter():
        return "it needs Linux on x86-64 or AArch64"
    if shutil.which("bwrap") is None:
        return "the program `bwrap` is not installed (package `bubblewrap`)"
    ran = _run("print('confined')", SandboxSettings())
    return "" if ran.output == "confined\n" else f"`bwrap` failed: {ran.output.strip()[-200:]}"


def _run(code: str, settings: SandboxSettings) -> Ran:
    with tempfile.TemporaryFile() as program, tempfile.TemporaryFile() as rules:
        program.write(code.encode("utf-8", "replace"))
        rules.write(seccomp_filter())
        for file in (program, rules):
            file.seek(0)
        process = subprocess.Popen(
            _command(settings, program.fileno(), rules.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(program.fileno(), rules.fileno()),
            env={"PATH": os.defpath},
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            output, ended = read_output(process.stdout.fileno(), settings, lambda: _end(process))
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        finally:
            _end(process)
            process.stdout.close()
            process.wait()
    return Ran(output=output, exit_code=_exit_code(process.returncode), ended=ended)


def _command(settings: SandboxSettings, program: int, rules: int) -> list[str]:
    size = str(settings.max_disk_mib << 20)
    command = [shutil.which("bwrap") or "bwrap", *_ALONE, "--uid", _NOBODY, "--gid", _NOBODY]
    for name, value in (("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", _WORK)):
        command += ["--setenv", name, value]
    for folder in readable():
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        else:
            command += ["--ro-bind", folder, folder]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]  # its memory has no limit
    command += ["--size", size, "--tmpfs", _WORK, "--chdir", _WORK]
    command += ["--ro-bind-data", str(program), _CODE, "--remount-ro", "/", "--seccomp", str(rules)]
    return [*command, interpreter(), "-I", "-c", settings.launcher(_CODE)]


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _exit_code(code: int) -> int:
    return 128 - code if code > 128 else code  # bwrap adds 128 to the signal that ended its program
