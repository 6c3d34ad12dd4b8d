"""Writes a dataset aside and renames it when it is whole, so that no reader meets half of one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pydantic import ValidationError
from pydantic_core import from_json

from agentkd.compiler.exchange import SharedRows
from agentkd.compiler.hub_card import hub_card
from agentkd.errors import DataError, StoreError
from agentkd.files import aside_folder, put_in_place
from agentkd.schema import DatasetCard, Example, Message, Provenance, Rendered, content_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Tally", "read_card", "read_examples", "read_outlines", "with_clean_id", "write_dataset"]

Split = Literal["train", "dev"]

_CARD = "card.json"
_FILES = (
    "train.jsonl", "dev.jsonl", "sft-train.jsonl", "sft-dev.jsonl", "dpo-train.jsonl", "dpo-dev.jsonl",
)  # fmt: skip


@dataclass
class Tally:
    """What was written so far."""

    train: list[str] = field(default_factory=list)
    """Ids of the rows to train on, in order."""
    dev: list[str] = field(default_factory=list)
    """Ids of the rows kept back, in order."""
    n_label_tokens: int = 0
    """Trained tokens of the train rows."""
    n_tokens: int = 0
    """All tokens of the train rows' student views."""
    n_pairs: int = 0
    """Train rows with a rejected completion."""
    n_taught: int = 0
    """Rows of both splits with a teacher view."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Rows of both splits by kind."""
    _sources: dict[str, set[int]] = field(default_factory=dict)

    def add(self, example: Example, split: Split) -> None:
        """Count one row."""
        self.kinds[example.kind] += 1
        self.n_taught += example.teacher is not None
        made_from = example.provenance
        for kind, ids in (
            ("tasks", (example.task_id,)),
            ("trajectories", made_from.trajectories),
            ("memories", made_from.memories),
            ("corrections", made_from.corrections),
        ):
            self._sources.setdefault(kind, set()).update(map(hash, ids))
        if split == "dev":
            self.dev.append(example.id)
            return
        self.train.append(example.id)
        self.n_tokens += len(example.student.ids)
        self.n_label_tokens += len(example.student.weights) - example.student.weights.count(0.0)
        self.n_pairs += example.student_rejected is not None

    def counts(self) -> dict[str, Any]:
        """Return what a card counts, distinct tasks, trajectories, memories and corrections among it."""
        return {
            "n_train": len(self.train),
            "n_dev": len(self.dev),
            "n_label_tokens": self.n_label_tokens,
            "n_tokens": self.n_tokens,
            "n_pairs": self.n_pairs,
            "kinds": dict(sorted(self.kinds.items())),
            "sources": {kind: len(hashes) for kind, hashes in self._sources.items()},
        }


def write_dataset(
    out_root: Path,
    rows: Iterable[tuple[Example, Split]],
    finish: Callable[[Tally], DatasetCard],
    tokenizer: Any,
) -> DatasetCard:
    """Stream rows into `<out_root>/<card.id>/{train,dev}.jsonl` and put the cards beside them.

    The same rows as messages lie in `sft-*.jsonl`, the pairs in `dpo-*.jsonl`; `README.md` names them, so
    that `datasets.load_dataset` reads the folder. `finish` names the dataset when all rows are known. A
    whole dataset of that name is left as it is and its card returned. Raises StoreError where the disk
    refuses; then nothing is left behind.
    """
    try:
        with aside_folder(out_root) as folder:
            tally, shared = Tally(), SharedRows(tokenizer)
            with ExitStack() as stack:
                files = {name: stack.enter_context(_opened(folder / name)) for name in _FILES}
                for example, split in rows:
                    files[f"{split}.jsonl"].write(example.model_dump_json() + "\n")
                    for form, line in shared.lines(example).items():
                        files[f"{form}-{split}.jsonl"].write(line)
                    tally.add(example, split)
            shared_files = {name for name in _FILES[2:] if (folder / name).stat().st_size}
            for name in set(_FILES[2:]) - shared_files:
                (folder / name).unlink()
            card = finish(tally)
            target = out_root / card.id
            present = _complete(target)
            if present is not None:
                return present
            with _opened(folder / _CARD) as file:
                file.write(card.model_dump_json(indent=2) + "\n")
            with _opened(folder / "README.md") as file:
                file.write(hub_card(card, shared_files))
            if target.exists():
                shutil.rmtree(target)  # what a crash or a hand left incomplete
            put_in_place(folder, target)
            return card
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write a dataset under `{out_root}`: {error.strerror or error}",
            hint="check free space and rights; nothing was left behind",
            path=str(out_root),
        ) from error


def with_clean_id(card: DatasetCard, ledger: Ledger | None) -> DatasetCard:
    """Return a card under an id of which no row is tainted by a revocation.

    Equal rows have one id whatever runs they rest on. Where one of these was revoked and others were not, the
    rows are right again, and the dataset that rests on the others alone is another one.
    """
    while ledger is not None and ledger.revocations.rows(card.id):
        card = card.model_copy(update={"id": content_id("dat", card.id)})
    return card


def read_card(folder: Path) -> DatasetCard:
    """Read a dataset's card; raises DataError where it is missing or malformed."""
    try:
        return DatasetCard.model_validate_json((folder / _CARD).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise DataError(
            f"`{folder}` is no dataset: {type(error).__name__} in `{_CARD}`",
            hint="compile it again",
            path=str(folder),
        ) from error


def read_examples(file: Path) -> Iterator[Example]:
    """Yield the rows of a `.jsonl` file; raises DataError with path and line for a malformed one."""
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Example.model_validate_json(line)
                except ValidationError as error:
                    raise DataError(
                        f"`{file}` line {number} is no training row: {error.errors()[0]['msg']}",
                        hint="compile the dataset again",
                        path=str(file),
                        line=number,
                    ) from error
    except OSError as error:
        raise DataError(f"cannot read `{file}`: {error.strerror}", path=str(file)) from error


def read_outlines(file: Path) -> Iterator[Example]:
    """Yield the rows of a file that was just written with what the ledger keeps of them, and nothing else.

    Views and tokens are neither read into values nor checked, which is most of the work on a row.
    """
    nothing = Rendered(ids=(), weights=())
    bare = Example(
        id="",
        kind="trajectory",
        task_id="",
        student_view=(),
        target=Message(role="assistant"),
        student=nothing,
    )
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = from_json(line)
            kept = {name: row[name] for name in ("id", "kind", "task_id", "group")}
            yield bare.model_copy(update={**kept, "provenance": Provenance(**row["provenance"])})


def _complete(folder: Path) -> DatasetCard | None:
    """Return the card of a whole dataset; None where a part is missing or has another length."""
    try:
        card = read_card(folder)
        lengths = (_n_lines(folder / "train.jsonl"), _n_lines(folder / "dev.jsonl"))
    except (DataError, OSError):
        return None
    return card if lengths == (card.n_train, card.n_dev) else None


def _n_lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _opened(file: Path) -> TextIO:
    return file.open("w", encoding="utf-8", newline="\n")
