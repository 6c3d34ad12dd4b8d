"""Teacher signals on disk: the top tokens of each label position, computed once per row, kept for all runs.

A folder `<signals>/<key>/` belongs to one base model, tokenizer and `top_k`; it holds safetensors shards that
are only ever added. A row is found by the hash of its teacher's token ids and labels, so that another dataset
that shares rows computes only the new ones. Each shard carries a CRC, because safetensors notices no flipped
bits; a shard that fails it is computed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from agentkd.schema import content_id
from agentkd.train.body import Body
from agentkd.train.loss import PackSignals
from agentkd.train.packing import Pack
from agentkd.train.rows import Row, View

__all__ = ["TeacherSignals", "row_key"]

_ROWS_PER_SHARD = 64

Packer = Callable[[Sequence[View]], Iterable[Pack]]
RowSignals = tuple[torch.Tensor, torch.Tensor]
"""Top ids int32 `[label, k]` and log-probabilities float16 `[label, k]`."""


def row_key(view: View) -> str:
    """Return the hash of a teacher's view: equal key, equal signals."""
    return content_id("row", view.ids, view.labels)


class TeacherSignals:
    """The signals of a dataset's rows, read from disk or computed with the adapter switched off."""

    def __init__(self, root: Path, *, base_id: str, template_hash: str, top_k: int) -> None:
        """Open the folder of this base, template and `top_k` below `root`."""
        self.folder = root / content_id("signals", base_id, template_hash, top_k)
        self.top_k = top_k
        self._found: dict[str, RowSignals] = {}

    def prepare(
        self,
        rows: Sequence[Row],
        body: Body,
        *,
        pack: Packer,
        chunk_tokens: int,
        on_rows: Callable[[int], None],
    ) -> int:
        """Load what is cached, compute and store the rest; return the number of rows computed.

        `pack` makes packs of views; `on_rows` is called with the number of rows that each shard adds.
        """
        views = {row_key(row.teacher): row.teacher for row in rows if row.teacher is not None}
        if self.folder.is_dir():
            for shard in sorted(self.folder.glob("*.safetensors")):
                self._found.update(_read_shard(shard, views))
        missing = sorted((key for key in views if key not in self._found), key=lambda key: views[key].ids)
        for start in range(0, len(missing), _ROWS_PER_SHARD):
            keys = missing[start : start + _ROWS_PER_SHARD]
            computed = _compute([views[key] for key in keys], body, self.top_k, pack, chunk_tokens)
            shard_rows = dict(zip(keys, computed, strict=True))
            _write_shard(self.folder, shard_rows)
            self._found.update(shard_rows)
            on_rows(len(keys))
        return len(missing)

    def of_pack(self, pack: Pack, rows: Sequence[Row], device: torch.device) -> PackSignals:
        """Gather the signals of a pack of student views; `rows` are the rows that were packed, in order."""
        k = self.top_k
        ids = torch.zeros(len(pack.labels), k, dtype=torch.int64)
        log_probs = torch.zeros(len(pack.labels), k)
        has_teacher = torch.zeros(len(pack.labels), dtype=torch.bool)
        found = {number: self._found[row_key(row.teacher)] for number, row in enumerate(rows) if row.teacher}
        for label, (number, place) in enumerate(pack.labels):
            if number in found:
                row_ids, row_log_probs = found[number]
                ids[label], log_probs[label] = row_ids[place].long(), row_log_probs[place].float()
                has_teacher[label] = True
        return PackSignals(ids.to(device), log_probs.to(device), has_teacher.to(device))


@torch.inference_mode()
def _compute(
    views: Sequence[View], body: Body, top_k: int, make: Packer, chunk_tokens: int
) -> list[RowSignals]:
    k = min(top_k, body.n_vocabulary)
    ids = [torch.zeros(len(view.labels), top_k, dtype=torch.int32) for view in views]
    log_probs = [torch.full((len(view.labels), top_k), -torch.inf, dtype=torch.float16) for view in views]
    for pack in make(views):
        with body.without_adapter():
            hidden = body.hidden(pack)
        for start in range(0, len(pack.labels), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            top = body.logits(hidden[part]).log_softmax(-1).topk(k, dim=-1)
            top_ids, top_values = top.indices.int().cpu(), top.values.half().cpu()
            for row, (number, place) in enumerate(pack.labels[part]):
                ids[number][place, :k] = top_ids[row]
                log_probs[number][place, :k] = top_values[row]
    return list(zip(ids, log_probs, strict=True))


def _write_shard(folder: Path, rows: Mapping[str, RowSignals]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "ids": torch.cat([ids for ids, _ in rows.values()]),
        "log_probs": torch.cat([log_probs for _, log_probs in rows.values()]),
    }
    index = json.dumps({key: len(ids) for key, (ids, _) in rows.items()})
    name = content_id("shard", list(rows))
    aside = folder / f"{name}.{os.getpid()}.tmp"
    save_file(tensors, str(aside), metadata={"rows": index, "crc": str(_crc(tensors, index))})
    with open(aside, "rb") as written:
        os.fsync(written.fileno())
    os.replace(aside, folder / f"{name}.safetensors")


def _read_shard(shard: Path, wanted: Mapping[str, View]) -> Iterator[tuple[str, RowSignals]]:
    """Yield the wanted rows of a shard; delete it where its content does not match its CRC."""
    from safetensors import safe_open

    try:
        with safe_open(str(shard), framework="pt") as opened:
            facts = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in ("ids", "log_probs")}
        is_whole = _crc(tensors, facts["rows"]) == int(facts["crc"])
        sizes = json.loads(facts["rows"]) if is_whole else {}
    except Exception:  # safetensors has its own error class per release
        is_whole, sizes, tensors = False, {}, {}
    if not is_whole:
        with contextlib.suppress(FileNotFoundError):
            shard.unlink()
    start = 0
    for key, size in sizes.items():
        if key in wanted:
            yield key, (tensors["ids"][start : start + size], tensors["log_probs"][start : start + size])
        start += size


def _crc(tensors: Mapping[str, torch.Tensor], index: str) -> int:
    crc = zlib.crc32(index.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].contiguous().numpy().tobytes(), crc)
    return crc
