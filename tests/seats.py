"""Processes that start at once: forked from one that has imported torch and its like already.

Most tests that train, or that run a command or a script, do so for what comes of it, and a new Python takes
six seconds of a core to import the libraries. What is forked runs the same `agentkd.train`, `agentkd.cli` or
script on the same arguments, environment and pipes, may be killed, and dies by itself. What asks for another
environment gets a new Python, as do tests that use the fixture `new_python` and all where nothing forks.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROGRAMS = ("agentkd.train", "agentkd.cli")
_MOST = 1 << 18  # bytes of an order
_READ_AT_START = (  # by Python, the loader and the libraries: beginnings of names
    "PYTHON", "LD_", "MALLOC_", "HOME", "TMPDIR", "XDG_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "TORCH_",
    "PYTORCH_", "CUDA_", "HF_", "TRANSFORMERS_",
)  # fmt: skip


class Seats:
    """Stands in for `subprocess` where a process of ours is started."""

    DEVNULL, PIPE, TimeoutExpired = subprocess.DEVNULL, subprocess.PIPE, subprocess.TimeoutExpired

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = _read_at_start(environment)
        self._line: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()

    def Popen(self, arguments: Sequence[str], **options: Any) -> Any:  # noqa: N802
        """Take a seat for a program of ours in the usual environment, else start a process."""
        program = arguments[2:] if list(arguments[:2]) == [sys.executable, "-m"] else arguments[1:]
        is_ours = arguments[0] == sys.executable and (program[0] in _PROGRAMS or program[0].endswith(".py"))
        if not is_ours or _read_at_start(options["env"]) != self._environment:
            return subprocess.Popen(arguments, **options)
        folder = str(options.get("cwd", os.getcwd()))
        order = {"arguments": program, "environment": options["env"], "folder": folder}
        with self._guard:
            line = self._connected()
            ours, theirs = zip(os.pipe(), os.pipe(), os.pipe(), strict=True)
            try:
                socket.send_fds(line, [json.dumps(order).encode()], theirs)
            finally:
                for handle in theirs:
                    os.close(handle)
        return _Seat(*ours)

    def close(self) -> None:
        """End the process that forks."""
        if self._line is not None and self._server is not None:
            self._line.close()
            self._server.wait(timeout=30)

    def _connected(self) -> socket.socket:
        if self._line is None:
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
            environment = {**os.environ, **self._environment}
            self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
            theirs.close()
        return self._line


class _Seat:
    """A forked process, as `subprocess.Popen` shows it."""

    def __init__(self, out: int, err: int, status: int) -> None:
        self.stdout, self.stderr = (os.fdopen(end, encoding="utf-8", errors="replace") for end in (out, err))
        self._status = os.fdopen(status)
        self.returncode: int | None = None
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end and return what it printed on both streams; kill it where it takes longer."""
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as readers:
            said = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # which ends what is read
                raise
            out, err = (each.result() for each in said)
            return out, err

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what must be the same in a seat; all else is read later, and goes along with the order."""
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _serve(handle: int) -> None:
    """Fork a process for every order, until the other end is closed."""
    import chromadb  # noqa: F401
    import langgraph.graph  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import agentkd.builtins
    import agentkd.cli.root
    import agentkd.cycle
    import agentkd.train.__main__
    import agentkd.train.loop
    import agentkd.train.plan
    import agentkd.workspace  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who watch
    line = socket.socket(fileno=handle)
    while True:
        said, handles, _, _ = socket.recv_fds(line, _MOST, 3)
        if not said:
            return
        if os.fork() == 0:
            line.close()
            _watch(json.loads(said), *handles)
        for each in handles:
            os.close(each)


def _watch(order: dict[str, Any], out: int, err: int, status: int) -> None:
    """Fork the process that was asked for, say its number, and at its end how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _work(order, out, err)
    os.close(out)
    os.close(err)
    os.write(status, f"{pid}\n".encode())
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):
        os.write(status, f"{ended}\n".encode())
    os._exit(0)


def _work(order: dict[str, Any], out: int, err: int) -> None:
    code = 1
    try:
        for number, end in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(end, number)
            os.close(end)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        program, *arguments = order["arguments"]
        if program.endswith(".py"):
            sys.argv, sys.path[0] = [program, *arguments], str(Path(program).parent)
            runpy.run_path(program, run_name="__main__")
            code = 0
        elif program == "agentkd.cli":
            code = sys.modules["agentkd.cli"].main(arguments)
        else:
            arguments[arguments.index("--parent") + 1] = str(os.getppid())
            code = sys.modules["agentkd.train.__main__"].main(arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
