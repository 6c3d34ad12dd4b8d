"""What every sandbox holds a program to, and how its output is read without ever keeping too much."""

from __future__ import annotations

import os
import select
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from agentkd.schema import Value

__all__ = ["LAUNCHER", "SandboxSettings", "interpreter", "read_output", "readable"]

LAUNCHER = """\
import os, resource, runpy
os.dup2(1, 2)
for name, most in (("AS", {memory}), ("FSIZE", {disk}), ("CPU", {cpu}), ("NOFILE", 64), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
runpy.run_path({path!r}, run_name="__main__")
"""
"""Program that sets the limits of its own process and becomes the code in a file."""


class SandboxSettings(Value):
    """Limits of one program."""

    seconds: float = Field(default=10.0, gt=0.0)
    """Wall time."""
    max_memory_mib: int = Field(default=512, ge=64)
    """Memory."""
    max_disk_mib: int = Field(default=64, ge=1)
    """Disk of its folder."""
    max_output_chars: int = Field(default=20_000, ge=100)
    """Output that is kept; a program that prints more is ended."""

    def launcher(self, path: str) -> str:
        """Return the program that holds itself to the limits and becomes the code in `path`."""
        return LAUNCHER.format(
            memory=self.max_memory_mib << 20,
            disk=self.max_disk_mib << 20,
            cpu=int(self.seconds) + 1,
            path=path,
        )


def interpreter() -> str:
    """Return the Python that code runs with: ours, outside of any virtual environment."""
    name = f"python{sysconfig.get_python_version()}"
    found = Path(sys.base_prefix) / "bin" / name
    return str(found if found.exists() else Path(getattr(sys, "_base_executable", sys.executable)))


def readable() -> list[str]:
    """Return the folders that Python and the system's libraries lie in."""
    folders = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        sys.base_prefix,
        str(Path(interpreter()).resolve().parents[1]),
    ]
    return [folder for folder in dict.fromkeys(folders) if Path(folder).is_dir()]


def read_output(
    source: int, settings: SandboxSettings, end: Callable[[], None]
) -> tuple[str, Literal["exit", "timeout", "output"]]:
    """Read what a program prints to its end, or `end` it at the limit of seconds or of output."""
    deadline, data = time.monotonic() + settings.seconds, b""
    ended: Literal["exit", "timeout", "output"] = "exit"
    most = 4 * settings.max_output_chars
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or len(data) > most:
            ended = "timeout" if left <= 0 else "output"
            end()
            break
        if select.select([source], [], [], left)[0]:
            chunk = os.read(source, 1 << 16)
            if not chunk:
                break
            data += chunk
    text = data[:most].decode("utf-8", "replace")
    if len(text) > settings.max_output_chars:
        return f"{text[: settings.max_output_chars]}\n[cut]", ended
    return text, ended
