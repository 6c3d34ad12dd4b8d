"""What the model said before training: one figure per label, computed once, kept beside the signals.

A preference loss compares the student with the model that training starts from, or with its base; a
selective loss asks how far an earlier model is from the teacher. Both are constant over the training: at
three epochs a cached figure saves two of three forward passes, and all of them in the next run over the
same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import TrainJob, content_id
from agentkd.train.artefact import FORMAT
from agentkd.train.batch import PackSignals, Weighted
from agentkd.train.body import Body
from agentkd.train.finish import teacher_id
from agentkd.train.lora import without_dropout
from agentkd.train.objectives.label_loss import label_losses
from agentkd.train.packing import Pack
from agentkd.train.rows import Row, View
from agentkd.train.shards import read_rows, write_shard
from agentkd.train.teacher import arithmetic

__all__ = ["References", "check_reference", "prepare_references"]

_ROWS_PER_SHARD = 64
_FIGURES = "figures"  # the tensor of a shard, one figure per label


class _Signals(Protocol):
    def of_pack(self, pack: Pack, rows: Sequence[Row], device: torch.device) -> PackSignals: ...


Packs = Callable[[Sequence[View]], Iterable[Pack]]


class References:
    """The reference's losses at the labels of student views; those of one reference model."""

    def __init__(self, root: Path, *, reference_id: str, top_k: int = 0, teacher_id: str = "") -> None:
        """Open the folder of a reference below `root`.

        Args:
            root: Folder of the teacher's signals, which this one lies beside.
            reference_id: Fingerprint of base, template and adapter of the reference.
            top_k: Teacher's tokens that the loss is over; 0 for the loss of the text.
            teacher_id: Name of the signals where there is a teacher.
        """
        self.folder = root / content_id("reference", reference_id, top_k, teacher_id)
        self.top_k = top_k
        self._found: dict[str, torch.Tensor] = {}

    def prepare(
        self,
        rows: Sequence[Row],
        body: Body,
        *,
        pack: Packs,
        chunk_tokens: int,
        signals: _Signals | None = None,
        on_rows: Callable[[int], None] = lambda n: None,
    ) -> int:
        """Load what is cached, compute and store the rest with `body`; return the number of rows computed."""
        wanted = {self._key(row): row for row in rows}
        self._found.update(self._read(wanted))
        missing = sorted(
            (key for key in wanted if key not in self._found), key=lambda key: wanted[key].student.ids
        )
        for start in range(0, len(missing), _ROWS_PER_SHARD):
            keys = missing[start : start + _ROWS_PER_SHARD]
            computed = self._compute([wanted[key] for key in keys], body, pack, chunk_tokens, signals)
            shard = dict(zip(keys, computed, strict=True))
            write_shard(self.folder, {key: {_FIGURES: row.numpy()} for key, row in shard.items()}, {})
            self._found.update(shard)
            on_rows(len(keys))
        return len(missing)

    def _read(self, wanted: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the wanted rows that are on disk; a damaged shard is deleted."""
        for key, row in read_rows(self.folder, (_FIGURES,), wanted):
            yield key, torch.from_numpy(row[_FIGURES])

    def of_pack(self, pack: Pack, rows: Mapping[int, Row], device: torch.device) -> torch.Tensor:
        """Return the reference's loss at each label, `[n]`; 0 for labels of views that are not in `rows`."""
        packed = {number for number, _ in pack.labels}
        found = {n: self._found[self._key(row)].tolist() for n, row in rows.items() if n in packed}
        losses = [found[number][place] if number in found else 0.0 for number, place in pack.labels]
        return torch.tensor(losses, device=device)

    def _key(self, row: Row) -> str:
        """Return the hash of all that decides the row's figures."""
        teacher = (row.teacher.ids, row.teacher.labels) if self.top_k and row.teacher else ()
        return content_id("row", row.student.ids, row.student.labels, teacher)

    @torch.inference_mode()
    def _compute(
        self, rows: Sequence[Row], body: Body, make: Packs, chunk_tokens: int, signals: _Signals | None
    ) -> list[torch.Tensor]:
        losses = [torch.zeros(len(row.student.labels)) for row in rows]
        with without_dropout(body.model):
            for pack in make([row.student for row in rows]):
                hidden = body.hidden(pack)
                targets = torch.tensor(pack.targets, device=body.device)
                taught = signals.of_pack(pack, rows, body.device) if signals and self.top_k else None
                for start in range(0, len(pack.labels), chunk_tokens):
                    part = slice(start, start + chunk_tokens)
                    top = (
                        (taught.top_ids[part, : self.top_k], taught.log_probs[part, : self.top_k])
                        if taught
                        else None
                    )
                    found = label_losses(body.logits(hidden[part]), targets[part], top).tolist()
                    for (number, place), loss in zip(pack.labels[part], found, strict=True):
                        losses[number][place] = loss
        return losses


def check_reference(weighted: Weighted) -> None:
    """Raise ConfigError where an objective's reference is neither `start`, `base` nor an adapter folder."""
    if "reference" not in weighted.objective.requires:
        return
    reference = str(getattr(weighted.objective, "reference", "start"))
    if reference not in ("start", "base") and not (Path(reference) / "adapter_config.json").is_file():
        raise ConfigError(
            f"`reference` must be `start`, `base` or an adapter folder, not `{reference}`",
            hint="an adapter folder holds `adapter_config.json`",
            key=f"train.objective.{weighted.name}.reference",
        )


def prepare_references(
    job: TrainJob,
    objectives: Sequence[Weighted],
    rows: Sequence[Row],
    body: Body,
    *,
    template_hash: str,
    pack: Packs,
    chunk_tokens: int,
    signals: _Signals | None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, References]:
    """Return the references of the objectives that ask for one, by name; `body` is as training starts."""
    found = {}
    for weighted in objectives:
        objective = weighted.objective
        if "reference" not in objective.requires:
            continue
        top_k = int(getattr(objective, "top_k", 0)) if weighted.needs_teacher else 0
        referred = _referred(weighted, rows)
        wanted = str(getattr(objective, "reference", "start"))
        reference_id, as_reference = _model(job, wanted, body, [row.student for row in referred])
        references = References(
            Path(job.signals or Path(job.dataset) / "signals"),
            reference_id=content_id(
                "of", job.base_id, template_hash, reference_id, arithmetic(job, body.dtype_name)
            ),
            top_k=top_k,
            teacher_id=f"{FORMAT}/{teacher_id(job)}/{getattr(signals, 'top_k', 0)}" if top_k else "",
        )
        with as_reference as reference:
            n = references.prepare(referred, reference, pack=pack, chunk_tokens=chunk_tokens, signals=signals)
        say(f"reference of `{weighted.name}`: {n} completions computed")
        found[weighted.name] = references
    return found


def _referred(weighted: Weighted, rows: Sequence[Row]) -> list[Row]:
    """Return the views that the objective compares with the reference, as rows."""
    if not weighted.is_on_spans:
        taught = [row for row in rows if row.teacher or not weighted.needs_teacher]
        return [row for row in taught if row.student.labels]
    pairs = [row for row in rows if row.rejected is not None]
    chosen = [Row(row.id, row.student, None) for row in pairs if row.student.labels]
    return chosen + [Row(row.id, row.rejected, None) for row in pairs if row.rejected is not None]


def _model(
    job: TrainJob, reference: str, body: Body, views: Sequence[View]
) -> tuple[str, AbstractContextManager[Body]]:
    """Return the fingerprint of a reference's adapter and how to be that model."""
    if reference == "start" or (reference == "base" and not job.init_adapter):
        return _fingerprint(job.init_adapter), _start(body)
    if reference == "base":
        return "", _base(body)
    return _fingerprint(reference), _other(job, reference, body, views)


def _fingerprint(adapter: str) -> str:
    return hf.file_sha256(Path(adapter) / "adapter_model.safetensors") if adapter else ""


@contextmanager
def _start(body: Body) -> Iterator[Body]:
    yield body


@contextmanager
def _base(body: Body) -> Iterator[Body]:
    with body.without_adapter():
        yield body


@contextmanager
def _other(job: TrainJob, adapter: str, body: Body, views: Sequence[View]) -> Iterator[Body]:
    """Load a second model for as long as the figures are computed."""
    model = hf.load_model(job.base, dtype=body.dtype_name, device=str(body.device))
    other = Body(hf.attach_adapter(model, adapter, "default"))
    other.pack_for_training(views)
    yield other
