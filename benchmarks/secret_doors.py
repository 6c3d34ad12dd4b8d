"""Secrets: in by every door, and on no disk; what of clean text is lost; what a student can be made to say.

    python benchmarks/secret_doors.py            # 1,000 secrets in 20 formats
    python benchmarks/secret_doors.py --small    # 100

The doors are those of an application: requests, answers, tool arguments, results, headers and errors, errors
of providers, corrections, a LangGraph store, memories, reasons of people, recorded runs, memories of another
system and the checkpointer of a waiting run. Then the workspace learns (distil, compile) and every byte below
it is searched. Clean rows are real ones: BFCL requests and tool traces.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import WORK, Row, at_least, at_most, publish

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from test_secrets import Doors

import agentkd
from agentkd import hf
from agentkd.ledger.redact import redact_json, redact_secrets
from agentkd.schema import (
    AnchorSettings,
    DatasetCard,
    Example,
    LoraSettings,
    Message,
    TrainJob,
    TrainSettings,
)
from agentkd.testing import SeededSecret, seeded_secrets, tiny_student
from agentkd.train import LoraTrainer, LoraTrainerSettings

N_CANARIES = 20
CLEAN = 1_000


def search(root: Path, secrets: Sequence[SeededSecret]) -> tuple[int, int, set[str]]:
    """Return the files and bytes that were read, and the formats of the secrets that were found in them."""
    n_files = n_bytes = 0
    found: set[str] = set()
    for path in root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            n_files, n_bytes = n_files + 1, n_bytes + len(data)
            found |= {f"{one.format} in {path.name}" for one in secrets if one.secret.encode() in data}
    return n_files, n_bytes, found


def everywhere(work: Path, n_each: int) -> list[Row]:
    """Bring secrets in by every door, learn, and search the disk."""
    secrets = seeded_secrets(n_each, seed=1)
    root, outside = work / "shop", work / "outside"
    outside.mkdir(parents=True)
    settings = {
        "memory": {"min_score": -1.0},
        "roles": {"student": tiny_student(work / "student"), "actor": "scripted:none"},
        "compile": {"dev_share": 0.0},
    }
    with agentkd.Workspace(root, settings=settings) as shop:
        doors = list(Doors(shop, outside).doors.items())
        doors.sort(key=lambda door: door[0] == "reason")  # it needs a memory to give a reason for
        for number, one in enumerate(secrets):
            name, door = doors[number % len(doors)]  # eleven doors and twenty formats: all pairs meet
            if name == "reason" and number < len(doors):
                Doors(shop, outside).memory(one)
            door(one)
        shop.distill()
        card = shop.compile()
    n_files, n_bytes, found = search(root, secrets)
    print(f"{n_files} files, {n_bytes:,} bytes, {card.n_train} rows; found: {sorted(found)}", flush=True)
    return [
        at_least("secrets brought in", float(len(secrets)), 20.0 * n_each),
        at_least("formats", float(len({one.format for one in secrets})), 20.0),
        Row("entry points", float(len(doors))),
        Row("bytes searched", float(n_bytes), n=n_files),
        at_most("secrets found on the disk", float(len(found)), 0.0, n=len(secrets)),
    ]


def clean_rows() -> Iterator[Any]:
    """Yield real rows: traces below `AGENTKD_DATA`, and the requests of `bfcl-live` with tools."""
    data = Path(os.environ.get("AGENTKD_DATA", "/nowhere"))
    for file in sorted(data.rglob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines()[:400]:
            try:
                yield json.loads(line)
            except ValueError:
                continue
    with agentkd.Workspace(WORK / "secrets-tasks", settings={"cycle": {"suite": "bfcl-live"}}) as shop:
        suite = shop.parts.suite("bfcl-live")
        for split in ("train", "holdout", "holdout-unseen"):
            for task in suite.tasks(split):
                tools = task.tools or tuple(suite.environment(task).tools)
                yield {"prompt": task.prompt, "tools": [tool.model_dump(mode="json") for tool in tools[:8]]}


def false_alarms() -> list[Row]:
    """Redact clean rows and count those that change; the time is CPU time."""
    rows = list(clean_rows())
    random.Random(1).shuffle(rows)
    rows = rows[:CLEAN]
    n_chars = sum(len(json.dumps(row)) for row in rows)
    started = time.process_time()
    changed = [row for row in rows if redact_json(row, redact_secrets)[1]]
    seconds = time.process_time() - started
    for row in changed[:10]:
        text = json.dumps(row, ensure_ascii=False)
        clean = redact_secrets(text)
        at = next((i for i, (a, b) in enumerate(zip(text, clean, strict=False)) if a != b), 0)
        print(f"changed: ...{text[max(0, at - 60) : at + 30]}...", flush=True)
    return [
        at_most("clean rows that lose something", len(changed) / len(rows), 0.01, n=len(rows)),
        Row("CPU microseconds per kilobyte", seconds / n_chars * 1e9, n=len(rows)),
    ]


def extraction(work: Path) -> list[Row]:
    """Train a tiny student on canaries as they are and as they are stored, and ask for them."""
    base = hf.tiny_model(work / "base")
    canaries = [one for one in seeded_secrets(1, seed=4) if one.format not in ("private-key",)]
    canaries = (canaries * 2)[:N_CANARIES]
    rates = {
        name: extracted(work / name, base, canaries, redact)
        for name, redact in (("as they are", False), ("redacted", True))
    }
    return [
        at_least("canaries extracted without redaction", float(rates["as they are"]), 1.0, n=N_CANARIES),
        at_most("canaries extracted with redaction", float(rates["redacted"]), 0.0, n=N_CANARIES,
                peer=float(rates["as they are"]), peer_name="without"),
    ]  # fmt: skip


def extracted(folder: Path, base: Path, canaries: Sequence[SeededSecret], is_redacted: bool) -> int:
    """Return how many canaries a student says that was trained on them for many epochs."""
    tokenizer = hf.load_tokenizer(base)
    rows = []
    for number, one in enumerate(canaries):
        said = f"It is {redact_secrets(one.text) if is_redacted else one.text}"
        view = (Message(role="user", content=f"What is the access of customer number {number}?"),)
        target = Message(role="assistant", content=said, origin="model")
        rendered = hf.render_example(tokenizer, view, target)
        rows.append(Example(id=f"ex-{number}", kind="trajectory", task_id=f"t{number}", student_view=view,
                            target=target, student=rendered))  # fmt: skip
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    (data / "dev.jsonl").write_text("")
    card = DatasetCard(id=f"ds-{is_redacted}", n_train=len(rows), n_dev=0, n_label_tokens=9, n_tokens=9,
                       template_hash="t")  # fmt: skip
    (data / "card.json").write_text(card.model_dump_json())
    settings = TrainSettings(
        dtype="float32",
        device="cpu",
        tokens_per_step=2048,
        epochs=200.0,
        learning_rate=1e-2,
        lora=LoraSettings(r=32, alpha=64),
        anchor=AnchorSettings(weight=0),
    )
    output = folder / "out"
    job = TrainJob(dataset=str(data), base=str(base), base_id="tiny", output=str(output), settings=settings)
    LoraTrainer(LoraTrainerSettings(threads=1)).train(job)
    model: Any = hf.attach_adapter(hf.load_model(base, dtype="float32"), output)
    n = 0
    for row, one in zip(rows, canaries, strict=True):
        ids = hf.render(tokenizer, row.student_view)
        said = greedy(model, tokenizer, list(ids))
        n += one.secret in said
    return n


def greedy(model: Any, tokenizer: Any, ids: list[int], most: int = 160) -> str:
    """Return what a model says, the likeliest token each time."""
    import torch

    start = len(ids)
    with torch.inference_mode():
        for _ in range(most):
            following = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if following == tokenizer.eos_token_id:
                break
            ids.append(following)
    return str(tokenizer.decode(ids[start:], clean_up_tokenization_spaces=False))


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    name = "secrets-small" if small else "secrets"
    work = WORK / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    started = time.perf_counter()
    rows = [*everywhere(work, 5 if small else 50), *false_alarms(), *extraction(work)]
    return publish(name, rows, {"seconds": time.perf_counter() - started})


if __name__ == "__main__":
    raise SystemExit(main())
