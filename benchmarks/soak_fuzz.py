"""Ten thousand broken inputs: configurations, task files, packs, adapters and command lines.

    python benchmarks/soak_fuzz.py            # 2,000 of each kind
    python benchmarks/soak_fuzz.py --small    # 60 of each kind, as the tests do

Every input is a sound one that was damaged, or a line of words that commands may get; all of them go through
the command line in this process. Each must end with one of the documented exit codes and no traceback, and a
command that fails must leave the ledger as it was: no fact more, none half-written, no stray file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import WORK, Row, at_least, at_most, publish

from agentkd import hf
from agentkd.cli import main as command_line
from agentkd.errors import CheckpointError
from agentkd.interop import dump_pack
from agentkd.interop.langmem import dump_langmem
from agentkd.interop.reme import dump_reme
from agentkd.ledger import Ledger
from agentkd.schema import Memory, memory_id
from agentkd.testing import example_trajectory

KNOWN_CODES = frozenset(range(13))
SETTINGS = """\
[roles]
actor = "scripted:clerk"

[agent]
max_steps = 2
recall = "off"

[memory]
embedder = "hashing"
index = "exact"

[run]
workers = 2

[cycle]
suite = "jsonl"

[suite.jsonl]
path = {tasks}

[model.scripted]
answers = ["done"]

[plugins]
auto = false
"""
ODD = (
    *(
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "null",
        "true",
        "[]",
        "{}",
        "\x00",
        "\ud800",
        "\u202e",
        "a" * 5000,
        "../x",
    ),
    *("%s", "--", "-", "'\"", "\\", "\n", "9" * 400, "\N{SNOWMAN}", "*", "~", "mem-1", "tra-1", "run-1"),
    *(
        "student@1-aaaaaaaa",
        "memory.k=0",
        "agent.max_steps=-1",
        "a.b.c.d=1",
        "roles=1",
        'plugins.modules=["nope"]',
    ),
)
"""Values that somebody may hand in."""
TOML = [b"=", b"[", b"]", b'"', b"\n", b"[[a]]\n", b"k = 0\n", b"1979-05-27"]
JSON = [b"{", b"}", b"[", b",", b'"id"', b"null", b"1e999", b'{"messages": []}\n']
WEIGHTS = [b"{", b"null", b'"r"', b"-1", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"[]"]
COMMANDS = {
    "config": "show schema path",
    "memory": "list show recall history diff lift audit quarantine activate undo revoke export import",
    "runs": "list show corrections import",
    "datasets": "list show export",
    "checkpoints": "list show promote rollback",
    "plugins": "list installed",
    "skills": "list add export",
}
LINES = [[noun, verb] for noun, verbs in COMMANDS.items() for verb in verbs.split()]
LINES += [
    line.split()
    for line in ["lineage", "correct", "report", "gate", "run", "distill", "stop --off", "init", "bogus", ""]
]
FLAGS = [
    "--json",
    "-q",
    "--set",
    "-n",
    "--suite",
    "--split",
    "--kind",
    "--format",
    "--status",
    "--at",
    "--since",
    "--to",
    "--reason",
    "--text",
    "--k",
    "--sha256",
    "--replace",
    "--dry-run",
    "--bogus",
    "-h",
    "--step",
    "--call",
]


@dataclass
class Counts:
    """What came of the inputs."""

    n: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def found(self, kind: str, given: str, said: str) -> None:
        """Note an input that ended in a traceback, an unforeseen error or an unknown code."""
        self.broken.append(f"{kind}: {given[:300]!r}: {said[-500:]}")


class Fuzz:
    """A workspace with a few facts, and the broken inputs that are thrown at it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.rng = random.Random(seed)
        self.counts = Counts()
        self.shop = root / "shop"
        self.shop.mkdir(parents=True)
        self.settings = SETTINGS.format(tasks=json.dumps(str(self.shop / "tasks.jsonl")))
        (self.shop / "agentkd.toml").write_text(self.settings, encoding="utf-8")
        task = {"id": "t1", "prompt": "Say done.", "split": "train", "answer": "done", "group": "g"}
        self.tasks = "".join(json.dumps({**task, "id": f"t{n}"}) + "\n" for n in range(4)).encode()
        (self.shop / "tasks.jsonl").write_bytes(self.tasks)
        self.memories = [
            Memory(id=memory_id("insight", "w", f"lesson {n}", scope), kind="insight", when_to_use="w",
                   content=f"lesson {n}", scope=scope)
            for n, scope in enumerate([Memory.model_fields["scope"].default] * 3)
        ]  # fmt: skip
        self.pack = dump_pack(self.memories)
        self.adapter = _adapter(root / "base", root / "adapter")
        with Ledger.open(self.shop / "ledger.db") as ledger:
            ledger.trajectories.finish(example_trajectory())
            ledger.memories.admit(self.memories[:1])

    def config(self) -> None:
        """Damage the settings."""
        data = self.damaged(self.settings.encode(), TOML)
        (self.shop / "agentkd.toml").write_bytes(data)
        try:
            self.call("config", data, ["config", "show"], is_reading=True)
        finally:
            (self.shop / "agentkd.toml").write_text(self.settings, encoding="utf-8")

    def jsonl(self) -> None:
        """Damage a task file and run it, or take it in as recorded runs or as memories."""
        file, said = self.shop / "tasks.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}\n' * 3
        sound, line = self.rng.choice(
            [
                (self.tasks, ["run", "--split", "train"]),
                (said.encode(), ["runs", "import", str(file), "--suite", "x"]),
                (dump_reme(self.memories).encode(), ["memory", "import", str(file)]),
                (dump_langmem(self.memories).encode(), ["memory", "import", str(file)]),
            ]
        )
        data = self.damaged(sound, JSON)
        file.write_bytes(data)
        try:
            self.call("jsonl", data, line)
        finally:
            file.write_bytes(self.tasks)

    def packs(self) -> None:
        """Damage a pack of memories and import it."""
        if self.rng.random() < 0.5:
            data = self.damaged(self.pack, [b"PK\x03\x04", b"PK\x01\x02", b"\x00" * 8, b"\xff" * 4])
        else:
            data = self.repacked()
        file = self.root / "broken.zip"
        file.write_bytes(data)
        told = self.rng.choice([[], ["--format", "pack"]])
        self.call("packs", data, ["memory", "import", str(file), *told])

    def repacked(self) -> bytes:
        """Return a pack whose entries were damaged, with or without a manifest that fits."""
        with zipfile.ZipFile(io.BytesIO(self.pack)) as opened:
            entries = {info.filename: opened.read(info) for info in opened.infolist()}
        name = self.rng.choice(list(entries))
        entries[name] = self.damaged(entries[name], [b"{", b"null", b'"', b"9" * 30, b'{"id": 1}'])
        if self.rng.random() < 0.7:  # a manifest that fits, so that the rows themselves are read
            told = {
                each: hashlib.sha256(data).hexdigest()
                for each, data in entries.items()
                if each != "pack.json"
            }
            entries["pack.json"] = json.dumps({"n": self.rng.choice([3, 3, 3, 2]), "sha256": told}).encode()
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
            for each, content in entries.items():
                opened.writestr(self.rng.choice([each] * 9 + [f"../{each}"]), content)
        return made.getvalue()

    def adapters(self) -> None:
        """Damage an adapter and read it: whole, or refused by name."""
        folder = self.root / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.adapter, folder)
        file = self.rng.choice(sorted(folder.iterdir()))
        data = self.damaged(file.read_bytes(), WEIGHTS)
        file.write_bytes(data)
        self.counts.n["adapters"] += 1
        try:
            hf.read_adapter(folder)
        except CheckpointError as error:
            self.counts.codes["adapters 9"] += 1
            if str(folder) not in str(error):
                self.counts.found("adapters", file.name, str(error))
        except Exception as error:
            self.counts.found("adapters", f"{file.name} {data[:80]!r}", f"{type(error).__name__}: {error}")
        else:
            self.counts.codes["adapters read"] += 1

    def arguments(self) -> None:
        """Give a command words that it may get."""
        words = list(self.rng.choice(LINES))
        for _ in range(self.rng.randrange(5)):
            file = str(self.root / "broken.zip")
            words.append(self.rng.choice([self.rng.choice(ODD), self.rng.choice(FLAGS), file]))
        self.call("arguments", repr(words).encode(), [word.replace("\x00", "") for word in words])

    def call(self, kind: str, given: bytes, words: list[str], *, is_reading: bool = False) -> None:
        """Run a command line and hold it to what is promised."""
        before = self.facts()
        out, err = io.StringIO(), io.StringIO()
        self.counts.n[kind] += 1
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = command_line(["-C", str(self.shop), *words])
        except BaseException as error:  # what escapes is what we look for
            self.counts.found(kind, f"{words} {given[:200]!r}", f"{type(error).__name__}: {error}")
            return
        said = err.getvalue()
        self.counts.codes[f"{kind} {code}"] += 1
        if code not in KNOWN_CODES or "Traceback" in said + out.getvalue() or "unforeseen" in said:
            self.counts.found(kind, f"{words} {given[:200]!r}", f"{code}: {said}")
        after = (
            self.facts()
        )  # code 1 of an import: some entries were left out, the others came in at one time
        if after != before and (code > 1 or is_reading) and words[:1] != ["run"]:
            self.counts.changed.append(f"{kind}: {words}: {before} -> {after}")

    def facts(self) -> dict[str, int]:
        """Count what the ledger holds."""
        with Ledger.open(self.shop / "ledger.db", read_only=True) as ledger:
            return ledger.counts()

    def damaged(self, data: bytes, pieces: list[bytes]) -> bytes:
        """Cut, flip, double and mix a sound input."""
        rng, made = self.rng, bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at, upto = sorted((rng.randrange(len(made) + 1), rng.randrange(len(made) + 1)))
            how = rng.randrange(6)
            if how == 0 and made:
                made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
            elif how == 1:
                del made[at : at + rng.randrange(1, 40)]
            elif how == 2:
                made[at:at] = rng.choice(pieces) * rng.choice([1, 1, 1, 50])
            elif how == 3:
                made[at:at] = made[at : min(upto, at + 200)]
            elif how == 4:
                made = made[:at] if rng.random() < 0.5 else made[at:]
            else:
                made[at : at + 1] = rng.choice([b"\xff", b"\x00", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r"])
        return bytes(made)

    def end(self) -> int:
        """Return the number of faults that a check of the whole workspace finds."""
        with Ledger.open(self.shop / "ledger.db") as ledger:
            ledger.check()
        marks = (".partial", ".skill-", ".STOP")
        return sum(path.name.startswith(marks) for path in self.root.rglob(".*"))


def _adapter(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    student = hf.load_model(hf.tiny_model(base), "float32")
    model: Any = get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "checkpoint.json").write_text(json.dumps({"name": "student@1-aaaaaaaa", "files": {}}))
    return folder


def fuzz(root: Path, n: int, seed: int) -> tuple[Fuzz, int]:
    """Throw `n` inputs of each kind at a workspace; return what came of them, and the faults left behind."""
    made = Fuzz(root, seed)
    kinds: list[Callable[[], None]] = [made.config, made.jsonl, made.packs, made.adapters, made.arguments]
    here = Path.cwd()
    os.chdir(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(n):
                for kind in kinds:
                    kind()
        return made, made.end()
    finally:
        os.chdir(here)


def main() -> int:
    """Fuzz and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="60 of each kind in place of 2,000")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = WORK / "soak-fuzz"
    shutil.rmtree(world, ignore_errors=True)
    started = time.monotonic()
    made, n_stray = fuzz(world, 60 if options.small else 2000, options.seed)
    counts = made.counts
    for line in (*counts.broken, *counts.changed):
        print(line, file=sys.stderr)
    n = sum(counts.n.values())
    refused = sum(number for name, number in counts.codes.items() if name.split()[-1] not in ("0", "read"))
    rows: list[Row] = [
        at_least("inputs", n, 300 if options.small else 10_000),
        at_most("tracebacks and unforeseen errors", len(counts.broken), 0, n=n),
        at_most("failed commands that changed a fact", len(counts.changed), 0, n=n),
        at_most("stray files", n_stray, 0),
        Row("refused inputs", refused, n=n),
    ]
    codes = dict(sorted(counts.codes.items()))
    facts = {"seed": options.seed, "seconds": round(time.monotonic() - started), "codes": codes}
    return publish("fuzz-small" if options.small else "fuzz", rows, facts)


if __name__ == "__main__":
    sys.exit(main())
