"""Export a student: as a peft folder, merged into the base, or for llama.cpp; each proved on real prompts.

A merge is computed in float32 and then cast. Every export is written aside and moved into place only after
the written files, read back by the programs they are for, answered like the student at every position of the
prompts; one that does not is refused and removed. What was found is kept beside the files as `export.json`.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from pydantic import Field

from agentkd.errors import CheckpointError, ConfigError
from agentkd.files import aside_folder, put_in_place
from agentkd.hf.adapter import Adapter, attach_adapter, quiet_peft, read_adapter
from agentkd.hf.fingerprint import file_sha256
from agentkd.hf.gguf_adapter import check_adapter, merge_from_gguf, write_adapter_gguf
from agentkd.hf.gguf_model import check_model, read_model, write_model
from agentkd.hf.llama_cpp import compare_llama_cpp, has_llama_cpp
from agentkd.hf.loading import load_model, load_tokenizer
from agentkd.hf.parity import Answers, Parity, answers_of, compare, prompts_of
from agentkd.schema import Rendered, Value, now

__all__ = ["DTYPES", "EXPORTS", "Export", "export_student", "record_file"]

EXPORTS: tuple[str, ...] = ("peft", "merged", "gguf-adapter", "gguf")
"""Shapes that a student can be exported to."""

DTYPES: dict[str, tuple[str, ...]] = {
    "peft": ("float32",),
    "merged": ("float32", "bfloat16", "float16"),
    "gguf-adapter": ("float32",),
    "gguf": ("float16", "bfloat16", "float32", "q8_0"),
}
"""Types of the weights by shape, the default first."""

BARS = {"peft": 0.999, "merged": 0.999, "gguf-adapter": 0.995, "gguf": 0.999}
"""Least share of positions whose most likely token is the student's, by shape."""

BARS_OF_TYPES = {
    ("merged", "float16"): 0.995,
    ("merged", "bfloat16"): 0.98,
    ("gguf", "float16"): 0.995,
    ("gguf", "bfloat16"): 0.98,
    ("gguf", "q8_0"): 0.98,
}
"""Bars of types with fewer digits. Rounding the merged weights to float16 moves logits by up to 0.03 and with
that the first of 4 in 3,849 positions (trained SmolLM2-135M): 99.9 % would be a matter of luck. bfloat16 has
three bits less: logits move by up to 0.27, and the first of 2 to 3 in 475 positions (SmolLM2-135M with random
adapters)."""

FURTHEST = {"float32": 0.25, "float16": 0.5, "bfloat16": 2.0, "q8_0": 4.0}
"""Largest difference of a logit, or of a log-probability of llama.cpp's, that lets an export through, by the
type of the weights: some ten times what rounding takes. A wrong scale or a lost cap goes far beyond."""


_UNREAD = "not read by llama.cpp: "


class Export(Value):
    """One export that was let through; written as `export.json` beside its files."""

    schema_version: int = 1
    """Version of this value's shape."""
    checkpoint: str
    """Name of the student."""
    shape: str
    """One of `EXPORTS`."""
    dtype: str
    """Type of the weights."""
    out: str
    """Where it lies."""
    files: dict[str, str]
    """sha256 of every file."""
    n_bytes: int
    """Size of all of them."""
    parity: tuple[Parity, ...]
    """How like the student it answers, by what read it."""
    prompts: str = ""
    """Where the prompts came from."""
    notes: tuple[str, ...] = ()
    """What could not be checked here, and why."""
    created_at: datetime = Field(default_factory=now)
    """When (UTC)."""


class Bars(TypedDict):
    """What lets an export through; see `Parity`."""

    bar: float
    furthest: float


@dataclass(frozen=True)
class _Job:
    base: Path
    adapter: Adapter
    out: Path
    dtype: str
    wanted: list[Answers]
    bars: Bars
    base_gguf: Path | None
    notes: list[str] = field(default_factory=list)
    """What could not be checked, and why; a writer adds to them."""


def export_student(
    shape: str,
    base: Path,
    adapter: Path,
    out: Path,
    rows: Sequence[Rendered],
    *,
    dtype: str = "",
    base_gguf: Path | None = None,
    prompts: str = "",
) -> Export:
    """Write the student to `out` and return what was written and how like it the export answers.

    Args:
        shape: `peft` (a folder of peft), `merged` (a whole model of transformers), `gguf-adapter` (one file
            for llama.cpp's `--lora`, beside a GGUF of the same base) or `gguf` (a whole model in one file).
        base: Folder of the base model.
        adapter: Folder of the checkpoint.
        out: Folder, or file for the GGUF shapes, that is made.
        rows: Prompts, at least one; the first 32 different ones are compared at every position.
        dtype: Type of the weights, of `DTYPES[shape]`; empty takes the first.
        base_gguf: File that the base came from: its metadata and tokenizer are taken over into a whole GGUF,
            also into the one of the base beside which llama.cpp reads a GGUF adapter.
        prompts: Where the prompts came from, for the record.

    Raises CheckpointError where `out` exists, where the shape cannot hold this adapter, or where the export
    answers otherwise than the student; ConfigError for a `dtype` that the shape does not have.
    """
    dtype = _dtype(shape, dtype)
    if out.exists():  # a record alone is what a kill between the two renames left
        raise CheckpointError(f"`{out}` exists already", hint="choose another place", path=str(out))
    asked = prompts_of(rows)
    if not asked:
        raise CheckpointError("an export needs prompts to be checked on", hint="compile a dataset first")
    checked = read_adapter(adapter)
    _check_fits(shape, base, checked)
    with aside_folder(out.parent) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it renames
            student = attach_adapter(load_model(base, "float32", "cpu"), adapter)
            wanted = answers_of(student, asked)
            del student
            bar = BARS_OF_TYPES.get((shape, dtype), BARS[shape])
            bars = Bars(bar=bar, furthest=FURTHEST[dtype])
            job = _Job(base, checked, folder / out.name, dtype, wanted, bars, base_gguf)
            parity = _WRITERS[shape](job)
        _refuse_unlike(parity, adapter.name, shape)
        return _place(job, out, shape, parity, prompts)


def record_file(out: Path, shape: str) -> Path:
    """Return where the record of an export lies: in its folder, or beside its file."""
    return out.with_name(f"{out.name}.export.json") if shape.startswith("gguf") else out / "export.json"


def _dtype(shape: str, dtype: str) -> str:
    if shape not in DTYPES:
        raise ConfigError(f"no export has the shape `{shape}`", hint=f"one of {', '.join(EXPORTS)}")
    if dtype and dtype not in DTYPES[shape]:
        raise ConfigError(
            f"a `{shape}` export has no weights of type `{dtype}`",
            hint=f"it has {', '.join(DTYPES[shape])}",
        )
    return dtype or DTYPES[shape][0]


def _check_fits(shape: str, base: Path, adapter: Adapter) -> None:
    """Refuse what the shape cannot hold before anything heavy is loaded."""
    if shape == "gguf-adapter":
        check_adapter(base, adapter)
    if shape == "gguf":
        check_model(base)


def _refuse_unlike(parity: Sequence[Parity], name: str, shape: str) -> None:
    for found in parity:
        if not found.holds:
            raise CheckpointError(
                f"the {shape} export of `{name}` answers otherwise than the student: {found.reader} agrees "
                f"on {found.agreement:.4f} of {found.n_tokens} tokens, needed {found.bar:g}; the largest "
                f"difference of a logit is {found.largest:.3g}, allowed {found.furthest or 0:g}",
                hint="nothing was written; weights of more bits keep more digits (`--dtype float32`)",
                parity=[one.model_dump() for one in parity],
            )


def _place(job: _Job, out: Path, shape: str, parity: Sequence[Parity], prompts: str) -> Export:
    """Write the record, and move the files to where they are wanted."""
    aside = job.out
    files = sorted(aside.iterdir()) if aside.is_dir() else [aside]
    notes = list(job.notes)
    if shape.startswith("gguf") and not has_llama_cpp():
        notes.append(_UNREAD + "xllamacpp is not installed (pip install 'agentkd[llama]')")
    export = Export(
        checkpoint=job.adapter.folder.name,
        shape=shape,
        dtype=job.dtype,
        out=str(out),
        files={file.name: file_sha256(file) for file in files},
        n_bytes=sum(file.stat().st_size for file in files),
        parity=tuple(parity),
        prompts=prompts,
        notes=tuple(notes),
    )
    record = record_file(aside, shape)
    record.write_text(export.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if record.parent != aside:
        put_in_place(record, record_file(out, shape))
    put_in_place(aside, out)
    return export


def _peft(job: _Job) -> list[Parity]:
    """Copy a checkpoint as the folder that peft reads, and read it with peft."""
    from peft import PeftModel

    job.out.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(job.adapter.folder / name, job.out / name)
    with quiet_peft():
        model: Any = PeftModel.from_pretrained(load_model(job.base, "float32", "cpu"), str(job.out)).eval()
    return [compare(job.wanted, model, reader="peft", **job.bars)]


def _merged(job: _Job) -> list[Parity]:
    """Save the merged model, cast, and read it with transformers.

    It computes in float32 there: what is compared is the written weights, not another arithmetic.
    """
    import torch

    model = _merge(job)
    model.to(getattr(torch, job.dtype))
    model.save_pretrained(str(job.out), safe_serialization=True)
    load_tokenizer(job.base).save_pretrained(str(job.out))
    del model
    return [compare(job.wanted, load_model(job.out, "float32", "cpu"), reader="transformers", **job.bars)]


def _gguf_adapter(job: _Job) -> list[Parity]:
    """Write the adapter for llama.cpp; read it back, and with llama.cpp where the base can be written.

    The base is written anew: a file that it came from may hold rounded weights, with which llama.cpp rounds
    the states as well.
    """
    write_adapter_gguf(job.base, job.adapter, job.out)
    model = merge_from_gguf(job.base, job.adapter, job.out, load_model(job.base, "float32", "cpu"))
    found = [compare(job.wanted, model, reader="transformers", **job.bars)]
    if found[0].holds and has_llama_cpp():
        whole = job.out.with_name("base.gguf")  # what the student stood on, digit by digit
        try:
            write_model(
                whole,
                job.base,
                load_model(job.base, "float32", "cpu"),
                load_tokenizer(job.base),
                dtype="float32",
                name="base",
                base_gguf=job.base_gguf,
            )
        except CheckpointError as error:
            job.notes.append(_UNREAD + error.message)
        else:
            found += compare_llama_cpp(job.wanted, whole, adapter=job.out, **job.bars)
    return found


def _gguf(job: _Job) -> list[Parity]:
    """Write the merged model for llama.cpp; read it back, and with llama.cpp."""
    model = _merge(job)
    name = job.adapter.folder.name
    tokenizer = load_tokenizer(job.base)
    layout = write_model(
        job.out, job.base, model, tokenizer, dtype=job.dtype, name=name, base_gguf=job.base_gguf
    )
    found = [compare(job.wanted, read_model(job.out, layout, model), reader="transformers", **job.bars)]
    if found[0].holds and has_llama_cpp():
        found += compare_llama_cpp(job.wanted, job.out, tokenizer=tokenizer, **job.bars)
    return found


def _merge(job: _Job) -> Any:
    """Return the base with the adapter in its weights, float32.

    An output layer that is tied to the embedding and has an adapter gets weights of its own first.
    """
    import torch

    model: Any = load_model(job.base, "float32", "cpu")
    modules = dict(model.named_modules())
    for name in job.adapter.pairs():
        if name not in modules:
            raise CheckpointError(
                f"adapter `{job.adapter.folder}` has weights for `{name}`, which the base lacks"
            )
        if modules[name] is model.get_output_embeddings() and model.config.tie_word_embeddings:
            model.config.tie_word_embeddings = False
            modules[name].weight = torch.nn.Parameter(modules[name].weight.detach().clone(), False)
        modules[name].weight.copy_(job.adapter.merged(name, modules[name].weight))
    return model


_WRITERS: dict[str, Callable[[_Job], list[Parity]]] = {
    "peft": _peft,
    "merged": _merged,
    "gguf-adapter": _gguf_adapter,
    "gguf": _gguf,
}
