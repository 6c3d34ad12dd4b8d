"""Hand a student out of the workspace, checked on the prompts that it was trained with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.cycle.parts import Parts
from agentkd.errors import AgentkdError, CheckpointError
from agentkd.files import append_line
from agentkd.schema import Example, Rendered

if TYPE_CHECKING:
    from agentkd.evaluate import ExportParity
    from agentkd.hf import Export

__all__ = ["check_export", "export_checkpoint", "exports_of"]

N_ROWS = 64
"""Rows that the 32 different prompts are looked for in."""

_LOG = "exports.jsonl"


def export_checkpoint(parts: Parts, name: str, shape: str, out: Path, *, dtype: str = "") -> Export:
    """Export a checkpoint to `out` in one of `agentkd.hf.EXPORTS`; see `agentkd.hf.export_student`.

    The parity is measured on rows of its dataset; where that is gone, on tasks of the suite's train split,
    and without a suite on a fixed list of texts. Raises NotFoundError for an unknown checkpoint,
    CheckpointError for an export that does not answer like the student. The workspace keeps a line of it.
    """
    export = _exported(parts, name, shape, out, dtype)
    append_line(parts.root / _LOG, export.model_copy(update={"out": str(out.resolve())}).model_dump_json())
    return export


def check_export(parts: Parts, name: str, shape: str) -> ExportParity:
    """Export a checkpoint, read it back, and throw it away: does it answer like the student?

    Raises ConfigError for an unknown shape and NotFoundError for an unknown checkpoint.
    """
    from agentkd.evaluate import ExportParity

    with tempfile.TemporaryDirectory(prefix="agentkd-export-") as folder:
        try:
            export = _exported(parts, name, shape, Path(folder) / "export", "")
        except CheckpointError as error:
            return ExportParity(shape=shape, holds=False, said=error.message)
    return ExportParity(shape=shape, holds=True, agreement=min(one.agreement for one in export.parity))


def _exported(parts: Parts, name: str, shape: str, out: Path, dtype: str) -> Export:
    from agentkd import hf

    checkpoint = parts.checkpoint(name)
    folder = parts.checkpoint_folder(name)
    if checkpoint.status == "tainted":
        raise CheckpointError(
            f"checkpoint `{name}` is tainted: a memory that it was trained on was revoked",
            hint="`agentkd cycle --recompile` trains a new one without that memory",
        )
    base = parts.student_files
    if base.base_id != checkpoint.base_id:
        raise CheckpointError(
            f"checkpoint `{name}` belongs to another base model than `{parts.settings.roles.student}`",
            hint="set `[roles] student` to the base that it was trained on",
        )
    rows, origin = _prompts(parts, checkpoint.dataset_id, base.path)
    return hf.export_student(
        shape, base.path, folder, out, rows, dtype=dtype, base_gguf=_base_gguf(parts), prompts=origin
    )


def exports_of(parts: Parts, name: str) -> list[Export]:
    """Return what was exported of a checkpoint, oldest first; raises NotFoundError for an unknown one."""
    parts.checkpoint(name)
    file = parts.root / _LOG
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
    found = [export for line in lines if (export := _export(line)) is not None]
    return [export for export in found if export.checkpoint == name]


def _export(line: str) -> Export | None:
    """Return the export of a line; None where a killed process left the line cut off."""
    from agentkd.hf import Export

    try:
        return Export.model_validate_json(line)
    except ValueError:
        return None


def _prompts(parts: Parts, dataset_id: str, base: Path) -> tuple[list[Rendered], str]:
    """Return rows to compare on, and where they are from."""
    rows = list(_rows(parts.root / "datasets" / dataset_id / "train.jsonl"))
    if rows:
        return rows, f"dataset {dataset_id}"
    from agentkd import hf

    tokenizer = hf.load_tokenizer(base)
    suite = parts.settings.cycle.suite
    if suite:
        try:
            tasks, views = parts.suite(suite).tasks("train", N_ROWS, 0), parts.views()
            ids = [hf.render(tokenizer, views.prompt(task, tools=())) for task in tasks]
        except AgentkdError as error:
            parts.progress.say(f"the prompts of suite `{suite}` cannot be had: {error.message}")
        else:
            return [_prompt(row) for row in ids], f"suite {suite}, train"
    return [_prompt(tokenizer.encode(text)) for text in hf.PROMPTS], "built-in texts"


def _prompt(ids: list[int]) -> Rendered:
    return Rendered(ids=tuple(ids), weights=(0.0,) * len(ids))


def _rows(file: Path) -> Iterator[Rendered]:
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            for line in islice(lines, N_ROWS):
                yield Example.model_validate_json(line).student


def _base_gguf(parts: Parts) -> Path | None:
    """Return the GGUF file that the base was converted from; None where it came as safetensors."""
    source = parts.fetch(parts.settings.roles.student)
    found = [] if any(source.rglob("*.safetensors")) else sorted(source.rglob("*.gguf"))
    return found[0] if len(found) == 1 else None
