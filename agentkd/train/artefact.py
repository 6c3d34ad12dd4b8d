"""The cache of teacher signals on disk: a documented artefact that any program can read. No torch.

A folder `<signals>/<key>/` belongs to one teacher, template and `top_k`; it holds safetensors shards that
are only ever added, each written aside and renamed. A shard holds whole rows, one after the other; axes: `t`
label tokens of its rows, as the teacher tokenises them, `k` top tokens.

| tensor | type | shape | is |
|---|---|---|---|
| `ids` | int32 | `[t, k]` | the teacher's top token ids, best first; -1 fills a token with fewer |
| `log_probs` | float16 | `[t, k]` | their natural-log probabilities; minus infinity where `ids` is -1 |
| `tail` | float16 | `[t]` | probability outside the top |
| `chosen` | float32 | `[t]` | log-probability of the row's own token |
| `ends` | int32 | `[t]` | where the token ends in the completion: its number, or bytes of text |

The metadata (strings) names `format`, `teacher`, `template` (hash of tokenizer and template), `top_k`, `unit`
(`token`: the student has the same vocabulary; `byte`: it has another one), `rows` (JSON: key of a row -> its
tokens, in order) and `crc` (CRC-32 of `rows`, then of the tensors by name), because safetensors notices no
flipped bits. A shard that fails it is deleted and computed again.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agentkd.schema import Value, content_id
from agentkd.train.rows import View
from agentkd.train.shards import Shard, read_keys, read_rows, read_shard, write_shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "FORMAT",
    "CacheFacts",
    "RowSignals",
    "SignalCache",
    "Unit",
    "cached_keys",
    "drop_unused",
    "inspect_caches",
    "row_key",
    "signal_bytes",
]

FORMAT = "agentkd-signals/3"
_ROWS_PER_SHARD = 64
Unit = Literal["token", "byte"]


def row_key(view: View) -> str:
    """Return the hash of a teacher's view: equal key, equal signals."""
    return content_id("row", view.ids, view.labels)


def signal_bytes(top_k: int, views: Iterable[View | None]) -> int:
    """Return the bytes that the signals of views take in memory; an equal view is held once."""
    distinct = {row_key(view): len(view.labels) for view in views if view is not None and top_k}
    return sum(distinct.values()) * (6 * top_k + 10)


@dataclass(frozen=True)
class RowSignals:
    """What a teacher said about one row; axes as in the module's table."""

    ids: NDArray[np.int32]
    """Top token ids, `[t, k]`."""
    log_probs: NDArray[np.float16]
    """Their log-probabilities, `[t, k]`."""
    tail: NDArray[np.float16]
    """Probability outside the top, `[t]`."""
    chosen: NDArray[np.float32]
    """Log-probability of the row's own tokens, `[t]`."""
    ends: NDArray[np.int32]
    """Where each token ends, `[t]`."""


_TENSORS = tuple(sorted(field.name for field in fields(RowSignals)))


class CacheFacts(Value):
    """What one folder of signals holds, by its own account."""

    folder: str
    """Name of the folder."""
    teacher: str
    """Fingerprint or name of the teacher."""
    template: str
    """Hash of tokenizer and chat template."""
    top_k: int
    """Tokens kept per position."""
    unit: str
    """`token` or `byte`: what the ends count."""
    n_shards: int = 0
    """Whole shards."""
    n_damaged: int = 0
    """Shards that fail their CRC; the next training computes their rows again."""
    n_rows: int = 0
    """Rows."""
    n_tokens: int = 0
    """Label tokens."""
    n_bytes: int = 0
    """Bytes on disk."""
    mean_tail: float = 0.0
    """Mean probability that the top tokens leave out."""
    mean_surprise: float = 0.0
    """Mean negative log-likelihood of the rows' own tokens under the teacher, nats."""


class SignalCache:
    """The folder of one teacher, template and `top_k`."""

    def __init__(
        self,
        root: Path,
        *,
        teacher_id: str,
        template_hash: str,
        top_k: int,
        unit: Unit = "token",
        arithmetic: str = "",
    ) -> None:
        """Name the folder below `root`; nothing is read or made yet.

        `arithmetic` tells apart what one teacher says in other numbers (dtype, quantisation).
        """
        named = (FORMAT, teacher_id, template_hash, top_k, unit, *([arithmetic] if arithmetic else []))
        self.folder = root / content_id("signals", *named)
        self.top_k = top_k
        self.unit: Unit = unit
        self._facts = {
            "format": FORMAT,
            "teacher": teacher_id,
            "template": template_hash,
            "top_k": str(top_k),
            "unit": unit,
            **({"arithmetic": arithmetic} if arithmetic else {}),
        }

    def read(self, wanted: Collection[str]) -> dict[str, RowSignals]:
        """Return the rows that are there; a damaged shard is deleted, one that cannot be read is told.

        Of a row that is there twice the one with tokens counts: a remote teacher had none for it at first.
        """
        found: dict[str, RowSignals] = {}
        for key, row in read_rows(self.folder, _TENSORS, wanted):
            if key not in found or not len(found[key].ends):
                found[key] = RowSignals(**row)
        return found

    def keys(self) -> set[str]:
        """Return the keys of the rows that are there by its shards' own account; reads no tensor."""
        return cached_keys(self.folder.parent, self.folder.name).get(self.folder.name, set())

    def fill(
        self,
        missing: list[str],
        compute: Callable[[list[str]], list[RowSignals]],
        on_rows: Callable[[int], None],
    ) -> Iterator[tuple[str, RowSignals]]:
        """Compute rows shard by shard, store each shard at once, and yield its rows.

        A process that is killed keeps every shard that it finished.
        """
        for start in range(0, len(missing), _ROWS_PER_SHARD):
            keys = missing[start : start + _ROWS_PER_SHARD]
            rows = dict(zip(keys, compute(keys), strict=True))
            self.write(rows)
            on_rows(len(keys))
            yield from rows.items()

    def write(self, rows: Mapping[str, RowSignals]) -> None:
        """Add one shard with these rows."""
        tensors = {key: {name: getattr(row, name) for name in _TENSORS} for key, row in rows.items()}
        write_shard(self.folder, tensors, self._facts)


def cached_keys(root: Path, folders: str = "signals-*") -> dict[str, set[str]]:
    """Return the keys of the rows in each folder of signals below `root`, by its name; reads no tensor."""
    found: dict[str, set[str]] = {}
    for file in sorted(root.glob(f"{folders}/*.safetensors")):
        with contextlib.suppress(FileNotFoundError):  # another process took it away meanwhile
            found.setdefault(file.parent.name, set()).update(read_keys(file))
    return found


def inspect_caches(root: Path) -> list[CacheFacts]:
    """Return what each folder of signals below `root` holds, after checking every CRC; nothing is deleted."""
    found = []
    for folder in sorted(path for path in root.glob("signals-*") if path.is_dir()):
        shards: list[Shard | None] = []
        n_bytes = 0
        for file in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(FileNotFoundError):  # another process took it away meanwhile
                shards.append(read_shard(file, _TENSORS))
                n_bytes += file.stat().st_size
        if shards:
            found.append(_facts(folder, shards, n_bytes))
    return found


def drop_unused(root: Path, days: float) -> list[str]:
    """Remove the folders of signals and of references that no training read or filled for `days`.

    Returns their names. Shards are whole rows: what a killed process leaves of a folder is a smaller one.
    """
    edge, dropped = time.time() - days * 86400, []
    for folder in sorted([*root.glob("signals-*"), *root.glob("reference-*")]):
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_mtime < edge:
            shutil.rmtree(folder)
            dropped.append(folder.name)
    return dropped


def _facts(folder: Path, found: list[Shard | None], n_bytes: int) -> CacheFacts:
    shards = [shard for shard in found if shard is not None]
    said = shards[0].facts if shards else {}
    n_tokens = sum(len(shard.tensors["tail"]) for shard in shards)
    tail = sum(float(shard.tensors["tail"].astype("float64").sum()) for shard in shards)
    surprise = -sum(float(shard.tensors["chosen"].astype("float64").sum()) for shard in shards)
    return CacheFacts(
        folder=folder.name,
        teacher=said.get("teacher", ""),
        template=said.get("template", ""),
        top_k=int(said.get("top_k", 0)),
        unit=said.get("unit", ""),
        n_shards=len(shards),
        n_damaged=len(found) - len(shards),
        n_rows=sum(len(shard.sizes) for shard in shards),
        n_tokens=n_tokens,
        n_bytes=n_bytes,
        mean_tail=tail / max(n_tokens, 1),
        mean_surprise=surprise / max(n_tokens, 1),
    )
