"""A disk that fails at a chosen write call: system calls of a process and its children are answered for it.

The child asks the kernel (seccomp, `SECCOMP_RET_USER_NOTIF`) to hand every call that writes to a supervisor
in the parent, which lets it through or answers it with an errno. So calls of SQLite, of Rust and of Python
fail alike, and nothing has to be compiled, preloaded or mounted. Linux 5.5 or newer on x86-64 or arm64.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from forked import Forked, start

__all__ = ["Call", "Fault", "supervised"]

NUMBERS = {
    "x86_64": {
        "write": 1, "pwrite64": 18, "writev": 20, "sendfile": 40, "fsync": 74, "fdatasync": 75,
        "ftruncate": 77, "rename": 82, "mkdir": 83, "openat": 257, "mkdirat": 258, "renameat": 264,
        "fallocate": 285, "pwritev": 296, "renameat2": 316, "copy_file_range": 326,
    },
    "aarch64": {
        "write": 64, "pwrite64": 68, "writev": 66, "sendfile": 71, "fsync": 82, "fdatasync": 83,
        "ftruncate": 46, "openat": 56, "mkdirat": 34, "renameat": 38, "fallocate": 47, "pwritev": 70,
        "renameat2": 276, "copy_file_range": 285,
    },
}  # fmt: skip
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
BY_PATH = {"rename": 0, "mkdir": 0, "openat": 1, "mkdirat": 1, "renameat": 1, "renameat2": 1}
"""Calls that name a path, with the argument that holds it; all others name an open file."""
TARGET = {"copy_file_range": 2}
"""Argument that holds the file which is written, where that is not the first."""
SECCOMP = {"x86_64": 317, "aarch64": 277}
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
NEW_LISTENER, CONTINUE = 1 << 3, 1
RECEIVE, SEND = 0xC0502100, 0xC0182101
PR_SET_NO_NEW_PRIVS = 38
FAMILIES = (
    ("ledger", r"ledger\.db"),
    ("dataset", r"datasets/"),
    ("save", r"checkpoints/.*\.partial/.*step-"),
    ("training", r"checkpoints/.*\.partial"),
    ("checkpoint", r"checkpoints/"),
    ("vectors", r"index/chroma"),
    ("words", r"index/words"),
    ("signals", r"signals"),
    ("report", r"cycles/"),
)


class Call(NamedTuple):
    """A sort of write calls: what is written, by which system call."""

    family: str
    name: str


@dataclass
class Fault:
    """What goes wrong: the n-th call of a sort fails, and where the disk stays full all that follow, too."""

    root: Path
    call: Call | None = None
    n: int = 0
    code: int = errno.EIO
    stays: bool = False
    seen: Counter[Call] = field(default_factory=Counter)
    """Write calls below the root, by sort."""
    failed: int = 0
    """Calls that were answered with the error."""

    def answer(self, name: str, path: str) -> int:
        """Return the errno of a call, 0 to let it through."""
        prefix = f"{self.root}/"
        if not path.startswith(prefix):
            return 0
        sort = Call(_family(path.removeprefix(prefix)), name)
        self.seen[sort] += 1
        is_struck = sort == self.call and self.seen[sort] == self.n
        if is_struck or (self.failed and self.stays and name not in ("fsync", "fdatasync", "rename")):
            self.failed += 1
            return self.code
        return 0


def supervised(work: Callable[[], int], log: Path, fault: Fault, limit_seconds: float) -> Forked:
    """Do some work in a forked process whose disk has a fault; return the process when it has ended."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def install() -> None:
        ours.close()
        listener = _install()
        socket.send_fds(theirs, [b"x"], [listener])
        os.close(listener)
        theirs.close()

    process = start(work, log, before=install)
    theirs.close()
    with ours:
        _, handles, _, _ = socket.recv_fds(ours, 1, 1)
    if not handles:
        raise SystemExit(f"the kernel refuses to hand over system calls:\n{process.said()}")
    try:
        _supervise(process, handles[0], fault, limit_seconds)
    finally:
        os.close(handles[0])
        process.kill()
    return process


def _supervise(process: Forked, listener: int, fault: Fault, limit_seconds: float) -> None:
    names = {number: name for name, number in NUMBERS[platform.machine()].items()}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    waited = 0.0
    while process.poll() is None and waited < limit_seconds:
        events = poll.poll(50)
        if not events:
            waited += 0.05
            continue
        if events[0][1] & (select.POLLHUP | select.POLLERR):
            process.wait(limit_seconds)
            return
        notice = bytearray(80)
        try:
            fcntl.ioctl(listener, RECEIVE, notice)
            key, thread, _, number = struct.unpack_from("QIIi", notice)
            code = fault.answer(
                names[number], _path(thread, names[number], struct.unpack_from("6Q", notice, 32))
            )
            reply = struct.pack("QqiI", key, 0, -code, 0 if code else CONTINUE)
            fcntl.ioctl(listener, SEND, reply)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):  # it was killed meanwhile
                raise


def _path(thread: int, name: str, arguments: tuple[int, ...]) -> str:
    """Return the file that a call is about; empty for a pipe, a socket or a file that is gone."""
    try:
        if name not in BY_PATH:
            return os.readlink(f"/proc/{thread}/fd/{arguments[TARGET.get(name, 0)]}")
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(arguments[BY_PATH[name]])
            path = memory.read(4096).partition(b"\0")[0].decode("utf-8", "replace")
        if not path.startswith("/"):
            folder = arguments[0] if BY_PATH[name] and arguments[0] < 1 << 31 else None
            base = f"/proc/{thread}/cwd" if folder is None else f"/proc/{thread}/fd/{folder}"
            path = f"{os.readlink(base)}/{path}"
        return path
    except OSError:
        return ""


def _family(path: str) -> str:
    return next((family for family, pattern in FAMILIES if re.match(pattern, path)), "other")


def _install() -> int:
    """Hand the calls of this thread, and of all that it starts, to whoever reads the descriptor returned."""
    machine = platform.machine()
    numbers = NUMBERS[machine]
    create = numbers["openat"]
    lines = [(0x20, 0, 0, 4), (0x15, 1, 0, ARCHITECTURES[machine]), (0x06, 0, 0, ALLOW), (0x20, 0, 0, 0)]
    for name, number in numbers.items():
        if name not in ("openat", "write"):
            lines += [(0x15, 0, 1, number), (0x06, 0, 0, NOTIFY)]
    # of `openat` those that create a file; of `write` those that go to no standard stream
    lines += [(0x15, 0, 3, create), (0x20, 0, 0, 32), (0x45, 0, 1, os.O_CREAT), (0x06, 0, 0, NOTIFY)]
    lines += [(0x20, 0, 0, 0), (0x15, 0, 3, numbers["write"]), (0x20, 0, 0, 16), (0x25, 0, 1, 2)]
    lines += [(0x06, 0, 0, NOTIFY), (0x06, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(buffer))
    filter_ = ctypes.create_string_buffer(program, len(program))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    number, address = ctypes.c_long(SECCOMP[machine]), ctypes.c_void_p(ctypes.addressof(filter_))
    listener = library.syscall(number, ctypes.c_long(1), ctypes.c_long(NEW_LISTENER), address)
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(listener)
