"""Several processes write to one ledger: no memory is lost, none is there twice, nobody fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agentkd.ledger import Ledger

WRITER = """
import sys
from agentkd.embedders import HashingEmbedder
from agentkd.ledger import Ledger
from agentkd.memory.admission import admit
from agentkd.plugins import PluginHost
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

path, me = sys.argv[1:]
hooks = PluginHost(auto=False).hooks

def memory(when, content):
    return Memory(id=memory_id("insight", when, content, Scope()), kind="insight", when_to_use=when,
                  content=content, keys=MemoryKeys(situation=when))

with Ledger.open(path) as ledger:
    for n in range(25):
        batch = [memory(f"writer {me} saw number {n} alone", f"do {me} {n}"),
                 memory(f"all writers saw the same number {n} here", f"do it for all {n}" + "!" * int(me))]
        for answer in admit(batch, ledger=ledger, embedder=HashingEmbedder(), hooks=hooks, merge_above=0.7):
            print(answer.outcome)
"""


def test_copies_that_processes_admit_at_one_time_are_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger.open(path).close()
    command = [sys.executable, "-c", WRITER, str(path)]
    running = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    done = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 4, [err for _, err in done]
    outcomes = [line for out, _ in done for line in out.split()]
    assert (outcomes.count("stored"), outcomes.count("merged")) == (4 * 25 + 25, 3 * 25)
    with Ledger.open(path) as ledger:
        assert len(ledger.memories.list()) == 4 * 25 + 25
        ledger.check()
