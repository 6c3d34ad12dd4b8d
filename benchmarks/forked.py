"""Whole cycles in forked processes: the libraries are imported once for all of them.

`warm` runs one cycle in a child and imports here what it imported; from then on `start` forks a process that
runs `agentkd` within a tenth of a second instead of ten. Its training process is forked before the child has
any thread, and is its child as in the product: it outlives a `kill -9` of its parent until it notices.
No thread may live in the process that forks.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before torch is imported: the order of sums decides the last bit
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)

__all__ = ["Forked", "ask", "command", "start", "warm"]


class Forked:
    """A forked process, the leader of its group."""

    def __init__(self, pid: int, log: Path) -> None:
        """Take its number and the file that its output goes to."""
        self.pid, self.log = pid, log
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; None where it runs longer."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.code

    def kill(self, *, with_trainer: bool = True) -> int:
        """kill -9 it, with or without the training process that it started; return how it ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                (os.killpg if with_trainer else os.kill)(self.pid, signal.SIGKILL)
        code = self.wait(60.0)
        return -99 if code is None else code

    def said(self) -> str:
        """Return what it wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(work: Callable[[], int], log: Path, before: Callable[[], None] = lambda: None) -> Forked:
    """Fork a process that does `work` and exits with what it returns; `before` is called first of all."""
    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("a thread lives in the process that forks")
    pid = os.fork()
    if pid:
        return Forked(pid, log)
    code = 70
    try:
        os.setsid()
        _redirect(log)
        before()
        _Seat.prepare()
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise AssertionError("not reached")


def command(*arguments: str) -> Callable[[], int]:
    """Return the work of `agentkd` with these arguments."""

    def run() -> int:
        from agentkd.cli.root import run_command_line

        return run_command_line(arguments)

    return run


def ask(question: Callable[[], Any], log: Path) -> Any:
    """Answer a question in a forked process, which may start threads; return the answer as JSON keeps it."""
    reading, writing = os.pipe()

    def work() -> int:
        with os.fdopen(writing, "w") as answer:
            json.dump(question(), answer)
        return 0

    process = start(work, log)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    if process.wait(120.0) != 0:
        raise SystemExit(f"a question could not be answered:\n{process.said()}")
    return json.loads(text)


def warm(work: Callable[[], int], log: Path) -> float:
    """Do some work in a child and import here what it and its trainer imported; return its CPU seconds."""
    note = log.with_suffix(".modules")

    def noted() -> int:
        code = work()
        _write_modules(note)
        return code

    os.environ["SOAK_MODULES"] = str(note)
    begun = os.times()
    process = start(noted, log)
    if process.wait(600.0) != 0:
        raise SystemExit(f"the first cycle ended with {process.code}:\n{process.said()}")
    del os.environ["SOAK_MODULES"]
    for name in sorted({line for file in note.parent.glob(f"{note.name}*") for line in _lines(file)}):
        with suppress(Exception):
            importlib.import_module(name)
    if threading.active_count() > 1:
        raise SystemExit(f"an import started a thread: {threading.enumerate()}")
    ended = os.times()
    return ended.children_user + ended.children_system - begun.children_user - begun.children_system


def _write_modules(note: Path) -> None:
    names = [name for name in sys.modules if not name.startswith(("__main__", "_pytest"))]
    Path(f"{note}.{os.getpid()}").write_text("\n".join(names), encoding="utf-8")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _redirect(log: Path) -> None:
    nothing, out = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    )
    os.dup2(nothing, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(nothing)
    os.close(out)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)


class _Seat:
    """A training process that waits, forked, for the job that `LoraTrainer` would start it with."""

    stdin = None

    def __init__(self) -> None:
        orders, self._orders = os.pipe()
        out, said = os.pipe()
        err, complained = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            os.dup2(said, 1)
            os.dup2(complained, 2)
            for handle in (out, err, said, complained):
                os.close(handle)
            _serve(orders)
        for handle in (orders, said, complained):
            os.close(handle)
        self.stdout, self.stderr = os.fdopen(out, errors="replace"), os.fdopen(err, errors="replace")
        self.returncode: int | None = None
        self.is_free = True

    @classmethod
    def prepare(cls) -> None:
        """Let the first training of this process take a seat instead of a new Python."""
        seat, start_process = cls(), subprocess.Popen

        def popen(arguments: Sequence[str], **options: Any) -> Any:
            if not seat.is_free or list(arguments[1:3]) != ["-m", "agentkd.train"]:
                return start_process(arguments, **options)
            seat.order(list(arguments[3:]), options["env"])
            return seat

        subprocess.Popen = popen  # type: ignore[assignment,misc]

    def order(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Let it train."""
        self.is_free = False
        os.write(self._orders, json.dumps([arguments, environment]).encode() + b"\n")
        os.close(self._orders)

    def poll(self) -> int | None:
        """Return the exit code, as of `subprocess.Popen`."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        """Wait for its end, as of `subprocess.Popen`."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("agentkd.train", timeout)
            time.sleep(0.005)
        return self.returncode or 0

    def terminate(self) -> None:
        """Ask it to stop."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 it."""
        os.kill(self.pid, signal.SIGKILL)


def _serve(orders: int) -> None:
    """Wait for a job and train; a parent that is gone closes the pipe."""
    code = 70
    try:
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
        with os.fdopen(orders) as lines:
            line = lines.readline()
        if not line:
            os._exit(0)
        arguments, environment = json.loads(line)
        os.environ.update(environment)
        from agentkd.train.__main__ import main

        code = main(arguments)
        if note := os.environ.get("SOAK_MODULES"):
            _write_modules(Path(note))
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
