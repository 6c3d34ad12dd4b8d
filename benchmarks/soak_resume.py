"""kill -9 in the middle of trainings: each must end with the weights of an undisturbed one, bit by bit.

    python benchmarks/soak_resume.py            # 20 killed at random steps, 10 more in other places
    python benchmarks/soak_resume.py --small    # 2 and 2

A tiny random student learns from rows with a teacher, so that signals are computed, cached and read again.
An undisturbed training gives the reference. Then every training is killed once in the place it is drawn for:
at a random step, while a resumable save is being written, or while the teacher's signals are being cached;
at last it is left to end. One thread, because the order of sums decides the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: no thread may live while we fork

from measure import WORK, Row, at_least, publish

import agentkd.train.loop  # noqa: F401 - what the forked processes would import one by one
from agentkd import hf
from agentkd.schema import DatasetCard, Example, LoraSettings, Message, Rendered, TrainJob, TrainSettings
from agentkd.train.__main__ import main as train_main

N_ROWS, N_EPOCHS, LIMIT_SECONDS = 160, 2.0, 300.0
PLACES = ("step", "save", "signals")


def make_world(folder: Path) -> Path:
    """Write a tiny student and a dataset whose rows have a teacher; return the folder of the job's parts."""
    hf.tiny_model(folder / "base")
    dataset = folder / "dataset"
    dataset.mkdir()
    rows = [_example(number) for number in range(N_ROWS)]
    for name, part in (("train", rows[4:]), ("dev", rows[:4])):
        text = "".join(row.model_dump_json() + "\n" for row in part)
        (dataset / f"{name}.jsonl").write_text(text, encoding="utf-8")
    card = DatasetCard(
        id="dat-soak", n_train=len(rows) - 4, n_dev=4, n_label_tokens=6 * len(rows),
        n_tokens=sum(len(row.student.ids) for row in rows), template_hash="soak",
    )  # fmt: skip
    (dataset / "card.json").write_text(card.model_dump_json(), encoding="utf-8")
    return folder


def _example(number: int) -> Example:
    dice = random.Random(number)
    prompt = [1, 5, 6, 7, *(dice.randrange(20, 300) for _ in range(dice.randrange(8, 40)))]
    target = [prompt[-1] + 1, prompt[-2] + 1, prompt[-3] + 1, 310, 311, 2]

    def rendered(*head: int) -> Rendered:
        ids = (*head, *prompt, *target)
        return Rendered(ids=ids, weights=(0.0,) * (len(ids) - len(target)) + (1.0,) * len(target))

    return Example(
        id=f"ex-{number}", kind="internalise", task_id=f"task-{number}",
        student_view=(Message(role="user", content="x"),), target=Message(role="assistant", content="y"),
        student=rendered(), teacher=rendered(1, 11, 12, 13),
    )  # fmt: skip


def make_job(world: Path, name: str) -> TrainJob:
    """Return the job of one training; each has its own cache of signals."""
    settings = TrainSettings(
        objective={"sft": {"weight": 0.5}, "self-context": {"top_k": 8}},
        lora=LoraSettings(r=4, alpha=8, dropout=0.1), learning_rate=5e-3, epochs=N_EPOCHS,
        tokens_per_step=256, dtype="float32", device="cpu", save_every_seconds=0.0,
    )  # fmt: skip
    return TrainJob(
        dataset=str(world / "dataset"), base=str(world / "base"), base_id="base-soak",
        output=str(world / name), settings=settings, signals=str(world / f"{name}-signals"),
    )  # fmt: skip


@dataclass
class Training:
    """A training process, forked from this one: the libraries are imported once for all."""

    pid: int
    said: IO[str]
    code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code of a process that ended, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        """Read what it says to the end; return its exit code."""
        with self.said:
            self.said.read()
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


def start(job: TrainJob) -> Training:
    """Start a training process that says how far it is."""
    spec = Path(f"{job.output}.json")
    spec.write_text(job.model_dump_json(), encoding="utf-8")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        sys.stdout = os.fdopen(writing, "w")
        os._exit(train_main([str(spec), "--events"]))
    os.close(writing)
    return Training(pid, os.fdopen(reading))


def finish(job: TrainJob) -> str:
    """Let a training end; return the hash of its weights."""
    code = start(job).wait()
    if code:
        raise SystemExit(f"the training of `{job.output}` ended with code {code}")
    weights = Path(job.output) / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def kill(job: TrainJob, place: str, step: int) -> str:
    """Start a training, kill -9 it in a place; return where it was, or "" where it ended before."""
    training = start(job)
    if place == "step":
        for line in training.said:
            event = json.loads(line)
            if event.get("label") == "train" and event["done"] >= step:
                break
        where = f"after step {step}"
    else:
        seen = _sees_save(job, step) if place == "save" else _sees_signals(job)
        if not _wait(training, seen):
            training.wait()
            return ""
        where = f"while {'a save' if place == 'save' else 'signals'} lay half written"
    if training.poll() is None:
        os.kill(training.pid, signal.SIGKILL)
    return where if training.wait() == -signal.SIGKILL else ""


def _sees_save(job: TrainJob, step: int) -> Callable[[], bool]:
    work = Path(f"{job.output}.partial")

    def seen() -> bool:
        return any(int(path.name[5:11]) >= step for path in work.glob("step-*.tmp"))

    return seen


def _sees_signals(job: TrainJob) -> Callable[[], bool]:
    root = Path(str(job.signals))

    def seen() -> bool:
        return any(path.is_file() for path in root.glob("**/*"))  # the first shard, or a part of one

    return seen


def _wait(training: Training, seen: Callable[[], bool]) -> bool:
    """Look until it is seen; False where the process ends first."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while training.poll() is None and time.monotonic() < deadline:
        if seen():
            return True
    return False


def soak(places: Sequence[str], seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Kill a training in each of the places; return what happened to each, and the reference."""
    world = WORK / "resume"
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    make_world(world)
    calm, dice = make_job(world, "calm"), random.Random(seed)
    expected = finish(calm)
    figures = json.loads((Path(calm.output) / "checkpoint.json").read_text(encoding="utf-8"))["metrics"]
    n_steps = int(figures["steps"])
    found, n = [], len(places)
    for number in range(n):
        job, place = make_job(world, f"cut-{number:02d}"), places[number]
        step = dice.randrange(1, n_steps - 2)
        where = kill(job, place, step)
        is_same = finish(job) == expected
        found.append({"place": place, "step": step, "killed": where, "is_same": is_same})
        verdict = "the same" if is_same else "DIFFERS"
        print(f"training {number + 1} of {n}: killed {where or 'too late'}: {verdict}")
        if is_same:
            shutil.rmtree(job.output)
            shutil.rmtree(job.signals)
    return found, {"weights": expected, "steps": n_steps}


def main() -> int:
    """Soak and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="4 trainings instead of 30")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of peft, in every process
    n_steps, n_others = (2, 1) if options.small else (20, 5)
    places = [PLACES[0]] * n_steps + list(PLACES[1:]) * n_others
    n = len(places)
    trainings, reference = soak(places, options.seed)
    killed = [training for training in trainings if training["killed"]]
    same = sum(training["is_same"] for training in killed)
    rows = [
        at_least("share of trainings that were killed in time", len(killed) / n, 1.0, n=n),
        at_least(
            "share of killed trainings with the same weights", same / max(1, len(killed)), 1.0, n=len(killed)
        ),
    ]
    for place in PLACES:
        n_there = sum(training["place"] == place for training in killed)
        rows.append(Row(f"killed in: {place}", n_there, n=len(killed)))
    name = "resume-small" if options.small else "resume"
    facts = {"seeds": {"instants": options.seed}, "model": "tiny", "reference": reference}
    return publish(name, rows, {**facts, "trainings": trainings})


if __name__ == "__main__":
    sys.exit(main())
