"""Programs that try to get out of a sandbox: each does what it wants outside of one, and nothing in one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentkd import Workspace
from agentkd.errors import ConfigError
from agentkd.models.scripted import ScriptedModel
from agentkd.plugins import Component, hookspecs
from agentkd.protocols import Ran, Sandbox
from agentkd.sandbox import BubblewrapSandbox, SandboxSettings, SandlockSandbox
from agentkd.schema import Reply, ToolCall

LIMITS = SandboxSettings(seconds=4.0, max_memory_mib=256, max_disk_mib=8, max_output_chars=1000)
BACK_ENDS: dict[str, Callable[[], Sandbox]] = {
    "sandlock": lambda: SandlockSandbox(LIMITS),
    "bubblewrap": lambda: BubblewrapSandbox(LIMITS),
}
WON = "ESCAPED"
SAY = "'ESC' 'APED'"  # a traceback shows the line, and must not look like a success


@dataclass(frozen=True)
class World:
    """What lies outside: a secret, a place to write, a server, and a process to signal."""

    secret: Path
    place: Path
    port: int
    pid: int


# Each prints WON where it succeeds, and leaves what `harm` finds where that can be seen from outside.
PROBES = {
    "read a file outside": "print(open({secret!r}).read())",
    "read a file of the system": "print({won} if open('/etc/passwd').read() else '')",
    "list a folder outside": "import os; os.listdir({place!r}); print({won})",
    "write outside": "open({place!r} + '/written', 'w').write('x'); print({won})",
    "a link to outside": "import os; os.symlink({secret!r}, 'link'); print(open('link').read())",
    "a link to a folder outside": (
        "import os; os.symlink({place!r}, 'd'); open('d/written', 'w').write('x')"
    ),
    "a hard link to outside": "import os; os.link({secret!r}, 'link'); print(open('link').read())",
    "through /proc": "print(open('/proc/{pid}/environ').read() and {won})",
    "through /proc's root": "print(open('/proc/1/root' + {secret!r}).read())",
    "our environment": "import os; print({won} if 'TEST_SECRET' in os.environ else '')",
    "TCP to loopback": (
        "import socket; s = socket.create_connection(('127.0.0.1', {port}), 2); print(s.recv(99).decode())"
    ),
    "UDP to loopback": (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        "s.sendto(b'x', ('127.0.0.1', {port})); print({won})"
    ),
    "listen": "import socket; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); print({won})",
    "a file in /dev": (
        "import os; open('/dev/kd-probe', 'w').write('x'); os.remove('/dev/kd-probe'); print({won})"
    ),
    "memory through /dev/shm": (
        "import os\n"
        "names = [f'/dev/shm/kd-probe-{{n}}' for n in range(4)]\n"
        "for name in names: open(name, 'wb').write(bytes(4 << 20))\n"
        "for name in names: os.remove(name)\n"
        "print({won})"
    ),
    "2 GB": "b = bytearray(2 << 30); b[-1] = 1; print({won})",
    "memory without a mapping": (
        "import os\n"
        "files = [os.memfd_create('a') for _ in range(8)]\n"
        "for file in files:\n"
        "    for _ in range(10): os.write(file, bytes(4 << 20))\n"
        "print({won})"
    ),
    "memory of System V": (
        "import ctypes\n"
        "c = ctypes.CDLL(None)\n"
        "made = [c.shmget(0, 4096, 0o1600), c.msgget(0, 0o1600), c.semget(0, 9, 0o1600), c.syscall(447, 0)]\n"
        "for drop, id_ in zip((c.shmctl, c.msgctl), made): drop(id_, 0, None)\n"
        "c.semctl(made[2], 0, 0)\n"
        "print({won} if max(made) >= 0 else '')"
    ),
    "memory in sockets": (
        "import socket\n"
        "pair = socket.socketpair()\n"
        "for option in (7, 32): pair[0].setsockopt(socket.SOL_SOCKET, option, 64 << 20)\n"
        "print({won})"
    ),
    "memory in a pipe": (
        "import ctypes, os\n"
        "text = ctypes.create_string_buffer(4096)\n"
        "piece = (ctypes.c_size_t * 2)(ctypes.addressof(text), 4096)\n"
        "sent = ctypes.CDLL(None).vmsplice(os.pipe()[1], piece, 1, 0)\n"
        "print({won} if sent == 4096 else '')"
    ),
    "a signal": "import os; os.kill({pid}, 15); print({won})",
    "a signal to all": "import os; os.kill(-1, 15)",
    "libc's system": (
        "import ctypes; code = ctypes.CDLL(None).system({touch!r}); print({won} if code == 0 else '')"
    ),
    "another program": "import subprocess; subprocess.run(['/usr/bin/touch', {place!r} + '/written'])",
    "50 processes": (
        "import os, time\n"
        "n = 0\n"
        "for _ in range(50):\n"
        "    n += 1\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(3); os._exit(0)\n"
        "print({won})"
    ),
    "a debugger": "import ctypes; print({won} if ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0 else '')",
    "a mount": (
        "import ctypes; print({won} if ctypes.CDLL(None).mount(b'/', b'/tmp', b'', 4096, 0) == 0 else '')"
    ),
    "new namespaces": "import ctypes; print({won} if ctypes.CDLL(None).unshare(0x10020000) == 0 else '')",
    "more rights": "import os; os.setuid(0); open({place!r} + '/written', 'w'); print({won})",
    "fill the disk": (
        "for n in range(100):\n    open(str(n), 'wb').write(bytes(1 << 20))\nprint({won})"
    ),
}  # fmt: skip


@pytest.fixture(params=BACK_ENDS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    made = BACK_ENDS[request.param]()
    if why := made.why_not():
        pytest.skip(why)
    return made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("TEST_SECRET", WON)
    secret, place = tmp_path / "secret", tmp_path / "place"
    secret.write_text(WON)
    place.mkdir(mode=0o777)
    server = socket.create_server(("127.0.0.1", 0))
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def serve() -> None:
        while True:
            try:
                server.accept()[0].sendall(WON.encode())
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield World(secret, place, server.getsockname()[1], bystander.pid)
        assert bystander.poll() is None
    finally:
        server.close()
        bystander.kill()
        bystander.wait()


def code_of(probe: str, world: World) -> str:
    touch = f"touch {world.place}/written".encode()
    names = {"secret": str(world.secret), "place": str(world.place), "port": world.port, "pid": world.pid}
    return PROBES[probe].format(**names, touch=touch, won=SAY)


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_fails(sandbox: Sandbox, world: World, probe: str) -> None:
    ran = sandbox.run(code_of(probe, world))
    assert WON not in ran.output, ran
    assert not list(world.place.iterdir())
    assert world.secret.read_text() == WON


@pytest.mark.parametrize(
    "probe", ["read a file outside", "write outside", "TCP to loopback", "libc's system", "our environment",
              "a link to outside", "another program", "list a folder outside", "through /proc",
              "memory without a mapping", "memory of System V", "memory in sockets", "memory in a pipe"],
)  # fmt: skip
def test_the_probes_are_live(world: World, probe: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code_of(probe, world)],
        capture_output=True, text=True, timeout=20, check=False, cwd=world.secret.parent,
    )  # fmt: skip
    assert WON in done.stdout or list(world.place.iterdir()), done.stderr


def test_a_fork_bomb_ends_and_leaves_nothing(sandbox: Sandbox) -> None:
    started = time.monotonic()
    lines = [
        "import os",
        "while True:",
        "    try:",
        "        os.fork()",
        "    except OSError:",
        "        pass",
    ]
    sandbox.run("\n".join(lines))
    assert time.monotonic() - started < LIMITS.seconds + 5
    deadline = time.monotonic() + 5
    while (left := _processes("agentkd-sandbox-", "/code.py")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _processes(*marks: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if any(mark in command for mark in marks) and "RLIMIT_" in command:
            found.append(command)
    return found


def test_a_program_is_held_to_time_and_output(sandbox: Sandbox) -> None:
    slow = sandbox.run("print('begun', flush=True)\nimport time\ntime.sleep(60)")
    assert (slow.ended, slow.output) == ("timeout", "begun\n")
    loud = sandbox.run("while True:\n    print('x' * 1000)")
    assert loud.ended == "output"
    assert len(loud.output) < 1100


def test_an_honest_program_has_threads_and_coroutines(sandbox: Sandbox) -> None:
    lines = [
        "import asyncio, tempfile",
        "from concurrent.futures import ThreadPoolExecutor",
        "async def work():",
        "    return await asyncio.to_thread(abs, -6)",
        "tempfile.TemporaryFile().write(b'x')",
        "print(asyncio.run(work()), *ThreadPoolExecutor(2).map(abs, [-1, -2]))",
    ]
    assert sandbox.run("\n".join(lines)).output == "6 1 2\n"


def test_an_honest_program_gets_its_answer_and_a_fresh_folder(sandbox: Sandbox) -> None:
    ran = sandbox.run(
        "import json, math, os\nopen('a', 'w').write('1')\nprint(json.dumps([math.pi, os.listdir()]))"
    )
    assert (ran.exit_code, ran.ended) == (0, "exit")
    assert '"a"' in ran.output
    assert "'a'" not in sandbox.run("import os; print(os.listdir())").output
    failed = sandbox.run("raise ValueError('caf\\u00e9')")
    assert failed.exit_code == 1
    assert "ValueError: caf\u00e9" in failed.output


class Without:
    """A back end that works nowhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def why_not(self) -> str:
        return "it is not here"

    def run(self, code: str) -> Ran:
        raise AssertionError("never run")


def test_without_a_sandbox_no_code_is_run(tmp_path: Path) -> None:
    class Broken:
        @hookspecs.hookimpl
        def components(self) -> Any:
            yield Component("sandbox", "broken", "Never works.", lambda settings, kit: Without("broken"))

    settings = {"agent": {"tools": ["run-python"], "sandbox": "broken"}, "memory": {"embedder": "hashing"}}
    with Workspace(tmp_path / "shop", settings=settings, plugins=[Broken()]) as shop:
        with pytest.raises(ConfigError, match=r"code is not run.*`broken`: it is not here"):
            shop.agent(model=ScriptedModel(["hi"]))
    for made in (SandlockSandbox(), BubblewrapSandbox()):
        if made.why_not():
            with pytest.raises(ConfigError, match="does not work here"):
                made.run("print(1)")


def test_an_agent_runs_code_in_the_sandbox_of_its_settings(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = {
        "agent": {"tools": ["run-python"], "sandbox": sandbox.name, "recall": "off"},
        "memory": {"embedder": "hashing", "index": "exact"},
        "sandbox": {sandbox.name: {"seconds": 5.0}},
    }
    codes = ["print(6 * 7)", f"print(open({str(tmp_path / 'shop' / 'ledger.db')!r}, 'rb').read(9))"]
    asked = [Reply(tool_calls=(ToolCall(name="run_python", arguments={"code": c}),)) for c in codes]
    with Workspace(tmp_path / "shop", settings=settings) as shop:
        run = shop.agent(model=ScriptedModel([*asked, "42"])).run("What is 6 * 7?")
    results = [step.results[0] for step in run.steps[:2]]
    assert results[0].content == "42\n"
    assert "Error" in results[1].error
    assert os.path.getsize(tmp_path / "shop" / "ledger.db")
