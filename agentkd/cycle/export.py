"""Hand a student out of the workspace, checked on the prompts that it was trained with."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cycle.parts import Parts
from agentkd.errors import CheckpointError
from agentkd.schema import Example, Rendered

if TYPE_CHECKING:
    from agentkd.hf.export import Parity

__all__ = ["export_checkpoint"]

N_ROWS = 32


def export_checkpoint(parts: Parts, name: str, shape: Any, out: Path, *, dtype: Any = "float32") -> Parity:
    """Export a checkpoint to `out` in one of `agentkd.hf.EXPORTS`; see `agentkd.hf.export_student`.

    The parity is measured on the completions of up to 32 rows of its dataset. Raises NotFoundError
    for an unknown checkpoint, CheckpointError for an export that does not answer like the student.
    """
    from agentkd import hf

    checkpoint = parts.checkpoint(name)
    folder = parts.checkpoint_folder(name)
    if checkpoint.status == "tainted":
        raise CheckpointError(
            f"checkpoint `{name}` is tainted: a memory that it was trained on was revoked",
            hint="run a cycle: it trains without that memory",
        )
    rows = _rows(parts.root / "datasets" / checkpoint.dataset_id / "train.jsonl")
    base = parts.student_files
    if base.base_id != checkpoint.base_id:
        raise CheckpointError(
            f"checkpoint `{name}` belongs to another base model than `{parts.settings.roles.student}`",
            hint="set `[roles] student` to the base that it was trained on",
        )
    return hf.export_student(shape, base.path, folder, out, rows, dtype=dtype)


def _rows(file: Path) -> list[Rendered]:
    if not file.is_file():
        raise CheckpointError(f"the dataset `{file.parent.name}` has no rows on disk", path=str(file))
    with file.open(encoding="utf-8") as lines:
        return [Example.model_validate_json(line).student for line in islice(lines, N_ROWS)]
