"""Memories under many processes: nothing acknowledged is missed, lost, doubled or shown to a stranger.

    python benchmarks/soak_memory.py            # 6,000 memories, 50 kills, 10,000 queries of tenants
    python benchmarks/soak_memory.py --small    # 600, 5, 1,000

Four processes write and two read one workspace: on a Chroma server, embedded with the exact search as the
others' way out, embedded with none, and with the exact index alone. Then four processes add, merge and prune
while one after the other is killed with -9 at a random instant; `agentkd doctor --repair` looks after them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import WORK, Row, at_least, at_most, publish
from memory_worker import lesson

from agentkd import Workspace
from agentkd.memory import MemoryStore
from agentkd.memory.scope import sees
from agentkd.schema import Memory, Scope

WORKER = Path(__file__).with_name("memory_worker.py")
WRITERS, READERS = 4, 2
MEMORY = {"embedder": "hashing", "min_score": 0.1}
NAMES = (
    "",
    "a",
    "b",
    "A",
    "ab",
    "a%",
    "a_",
    "%",
    "*",
    "a/b",
    "../a",
    '","app":"a',
    "a' OR 1=1 --",
    "ä",
    "a\x00b",
    "$ne",
)
Line = dict[str, Any]


def start(
    mode: str, folder: Path, settings: dict[str, Any], writer: str, number: int
) -> subprocess.Popen[str]:
    """Start one worker."""
    command = [sys.executable, str(WORKER), mode, str(folder), json.dumps(settings), writer, str(number)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@contextmanager
def chroma_server(folder: Path) -> Iterator[str]:
    """Run `chroma run` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    command = [str(program), "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def share(folder: Path, settings: dict[str, Any], n: int) -> dict[str, Any]:
    """Let four processes write `n` memories and two recall each as soon as it is acknowledged."""
    folder.mkdir(parents=True)
    (folder / "agentkd.toml").write_text("", encoding="utf-8")
    readers = [start("read", folder, settings, "", 0) for _ in range(READERS)]
    opened = [json.loads(reader.stdout.readline()) for reader in readers]
    writers = [start("write", folder, settings, f"w{at}-", n // WRITERS) for at in range(WRITERS)]
    seen: list[list[Line]] = [[] for _ in readers]
    acknowledged: list[Line] = []
    gate = threading.Lock()
    alive = [at for at, line in enumerate(opened) if "open" in line]

    def pass_on(writer: subprocess.Popen[str]) -> None:
        for line in writer.stdout:
            with gate:
                fact = json.loads(line)
                (acknowledged if "id" in fact else opened).append(fact)
                for at in alive if "id" in fact else ():
                    readers[at].stdin.write(line)
                    readers[at].stdin.flush()

    def collect(at: int) -> None:
        seen[at] = [json.loads(line) for line in readers[at].stdout]

    begun = time.monotonic()
    threads = [threading.Thread(target=pass_on, args=(writer,)) for writer in writers]
    threads += [threading.Thread(target=collect, args=(at,)) for at in alive]
    for thread in threads:
        thread.start()
    for thread in threads[:WRITERS]:
        thread.join()
    seconds = time.monotonic() - begun
    for reader in readers:
        reader.stdin.close()
    for thread in threads[WRITERS:]:
        thread.join()
    codes = [process.wait() for process in (*writers, *readers)]
    answers = [answer for answers in seen for answer in answers]
    unanswered = len(acknowledged) * len(alive) - len(answers)
    return {
        "acknowledged": len(acknowledged), "answers": len(answers), "codes": codes, "seconds": seconds,
        "owners": sorted(line["open"] for line in opened if "open" in line),
        "locked": sum("locked" in line for line in opened),
        "missed": sum(not answer["found"] for answer in answers) + unanswered,
        "late": sum(answer["seconds"] > 1.0 for answer in answers),
        "slowest": max((answer["seconds"] for answer in answers), default=0.0),
        "again": sum(answer["tries"] > 1 for answer in answers),
    }  # fmt: skip


def concurrency(world: Path, n: int) -> tuple[list[Row], dict[str, Any]]:
    """Share a workspace in each of the four ways."""
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    with chroma_server(world / "server") as url:
        ways: dict[str, dict[str, Any]] = {
            "Chroma server": {"memory": MEMORY, "index": {"chroma": {"url": url}}},
            "embedded, exact for the others": {
                "memory": MEMORY,
                "index": {"chroma": {"when_locked": "exact"}},
            },
            "exact index": {"memory": {**MEMORY, "index": "exact"}},
            "embedded, one owner": {"memory": MEMORY},
        }
        for name, settings in ways.items():
            found = facts[name] = share(world / name.replace(" ", "-"), settings, n)
            locked = found["locked"]
            if "one owner" not in name:  # the reader that opens first owns it there, and nobody writes
                rows += _recalls(name, found, n)
            rows += [
                Row(f"{name}: processes at work", len(found["owners"])),
                Row(f"{name}: processes told who has the lock", locked),
            ]
            everybody = len(found["owners"]) + locked == WRITERS + READERS and not any(found["codes"])
            rows.append(at_least(f"{name}: processes that work or say why not, share", float(everybody), 1.0))
            print(f"{name}: {found}", flush=True)
    return rows, facts


def _recalls(name: str, found: dict[str, Any], n: int) -> list[Row]:
    """Return what two readers made of what four writers had acknowledged."""
    checked = found["answers"]
    return [
        at_least(f"{name}: memories acknowledged", found["acknowledged"], n),
        at_most(f"{name}: acknowledged and missed by a reader after 1 s", found["missed"], 0, n=checked),
        at_most(f"{name}: recalls of a new memory that took over 1 s", found["late"], 0, n=checked),
        Row(f"{name}: slowest recall of a new memory, s", found["slowest"], n=checked),
        Row(f"{name}: memories per second, all writers", found["acknowledged"] / found["seconds"]),
    ]


class Churn:
    """A process that churns; what it acknowledged is kept."""

    def __init__(self, folder: Path, settings: dict[str, Any], writer: str, seed: int) -> None:
        self.lines: list[Line] = []
        self._process = start("churn", folder, settings, writer, seed)
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()

    def kill(self) -> None:
        """Kill it with -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def _collect(self) -> None:
        for line in self._process.stdout:
            try:
                self.lines.append(json.loads(line))
            except ValueError:  # the kill came in the middle of a line: nothing was acknowledged
                return


def kills(world: Path, n: int, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """Kill `n` of the churning processes one by one and compare what is left with what was acknowledged."""
    folder, dice = world / "kills", random.Random(seed)
    settings = {"memory": MEMORY, "index": {"chroma": {"when_locked": "exact"}}}
    folder.mkdir(parents=True)
    (folder / "agentkd.toml").write_text(
        '[memory]\nembedder = "hashing"\nmin_score = 0.1\n', encoding="utf-8"
    )
    with Workspace(folder) as workspace:
        workspace.memory.sync()
    lines: list[Line] = []
    repairs: list[Any] = []
    at_work = [Churn(folder, settings, f"c{at}-", seed + at) for at in range(WRITERS)]
    for number in range(n):
        time.sleep(dice.uniform(0.3, 3.0))
        at = dice.randrange(WRITERS)
        at_work[at].kill()
        lines += at_work[at].lines
        at_work[at] = Churn(folder, settings, f"c{at}-", seed + 100 * (number + 1) + at)
    time.sleep(3.0)
    for churn in at_work:
        churn.kill()
        lines += churn.lines
    for _ in range(2):  # the second repair has nothing left to do
        done = subprocess.run(
            [sys.executable, "-m", "agentkd.cli", "-C", str(folder), "doctor", "--repair", "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        repairs.append({"code": done.returncode, "checks": json.loads(done.stdout)})
    return _compared(folder, lines, n, repairs)


def _compared(
    folder: Path, lines: list[Line], n: int, repairs: list[Any]
) -> tuple[list[Row], dict[str, Any]]:
    admitted = {line["admitted"]: line["when"] for line in lines if "admitted" in line}
    pruned = {line["pruned"] for line in lines if "pruned" in line}
    with Workspace(folder) as workspace:
        store = workspace.memory
        check, audit = store.check(), store.audit()
        known = {m.id: m for m in workspace.ledger.memories.list(current=False)}
        lost = [id_ for id_ in admitted if id_ not in known]
        hidden = [
            id_ for id_ in admitted if id_ in known and id_ not in pruned and not _recalled(store, known[id_])
        ]
        shown = [id_ for id_ in pruned if known[id_].status == "active"]
        twice = [group for group in audit.exact_copies if len(group) > 1]
        in_index = sorted((memory_id, key) for _, memory_id, key in store._index.stored())
    doubled = len(in_index) - len(set(in_index))
    last = repairs[-1]["checks"]
    rows = [
        Row("kills of a writing process", n),
        Row("memories acknowledged under kills", len(admitted), n=len(lines)),
        at_least("ledger and index agree after doctor --repair", float(check.agrees), 1.0, n=check.n_vectors),
        at_most("acknowledged memories lost", len(lost), 0, n=len(admitted)),
        at_most(
            "acknowledged memories that recall does not find", len(hidden), 0, n=len(admitted) - len(pruned)
        ),
        at_most("acknowledged prunes undone", len(shown), 0, n=len(pruned)),
        at_most(
            "memories twice: copies in the ledger, vectors in the index",
            len(twice) + doubled,
            0,
            n=len(known),
        ),
        at_most("exit code of the second repair", repairs[-1]["code"], 0),
    ]
    facts = {
        "first_repair": repairs[0],
        "last_repair": last,
        "lost": lost[:5],
        "hidden": hidden[:5],
        "shown": shown[:5],
    }
    return rows, facts


def _recalled(store: MemoryStore, memory: Memory) -> bool:
    hits = store.recall(memory.when_to_use, k=5)
    return [hit.memory.id for hit in hits].count(memory.id) == 1 or memory.status != "active"


def tenants(n: int, seed: int) -> list[Row]:
    """Ask `n` times as a random asker with hostile names; nobody may see what is not theirs."""
    dice = random.Random(seed)
    scopes = [
        Scope(tenant=dice.choice(NAMES), app=dice.choice(NAMES), user=dice.choice(NAMES)) for _ in range(120)
    ]
    with tempfile.TemporaryDirectory() as folder, Workspace(folder, settings={"memory": MEMORY}) as workspace:
        store = workspace.memory
        memories = [
            lesson(f"a customer asks {i % 7} for {dice.choice(NAMES)}", f"say {i}", s)
            for i, s in enumerate(scopes)
        ]
        store.admit(memories)
        leaks = unseen = 0
        for number in range(n):
            asker = (
                dice.choice(scopes)
                if number % 2
                else Scope(tenant=dice.choice(NAMES), user=dice.choice(NAMES))
            )
            state = f"a customer asks {dice.randrange(7)} for {dice.choice(NAMES)}"
            hits = store.recall(state, k=dice.choice((1, 5, 200)), scope=asker)
            leaks += sum(not sees(asker, hit.memory.scope) for hit in hits)
            visible = sum(sees(asker, memory.scope) for memory in memories)
            unseen += not hits and visible > 0
    return [
        at_most("memories shown to another tenant, app or user", leaks, 0, n=n),
        at_most("askers who were shown none of the memories that they may see", unseen, 0, n=n),
    ]


def main() -> int:
    """Soak and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of everything")
    parser.add_argument("--seed", type=int, default=0, help="seed of instants, texts and scopes")
    options = parser.parse_args()
    n, n_kills, n_queries = (600, 5, 1_000) if options.small else (6_000, 50, 10_000)
    world = WORK / "soak-memory"
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    shared, shared_facts = concurrency(world, n)
    killed, killed_facts = kills(world, n_kills, options.seed)
    rows = [*shared, *killed, *tenants(n_queries, options.seed)]
    facts = {"seeds": {"all": options.seed}, "processes": shared_facts, "kills": killed_facts}
    return publish("memory-soak-small" if options.small else "memory-soak", rows, facts)


if __name__ == "__main__":
    sys.exit(main())
