"""Teacher signals for packs: cached or computed once per row, then laid over the student's labels.

Rows are found by the hash of the teacher's token ids and labels, so that another dataset that shares rows
computes only the new ones. A teacher with the student's vocabulary is aligned label by label, one with
another vocabulary by the bytes of the text. States of a teacher (`teacher-hidden`) are too large to keep: it
runs beside the student.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from agentkd.errors import TrainError
from agentkd.train.alignment import Alignment, Stretch, align
from agentkd.train.artefact import RowSignals, SignalCache, row_key
from agentkd.train.batch import PackSignals, PackSpans
from agentkd.train.body import Body
from agentkd.train.packing import Pack
from agentkd.train.rows import Row, View

__all__ = ["Packer", "TeacherModel", "TeacherSignals"]

Packer = Callable[[Sequence[View]], Iterable[Pack]]


@dataclass(frozen=True)
class TeacherModel:
    """A teacher that runs on this machine."""

    body: Body
    """Its layers and head."""
    is_own: bool
    """Whether it is the student's base: its adapter is switched off."""

    @torch.inference_mode()
    def hidden(self, pack: Pack) -> torch.Tensor:
        """Return its states at the pack's labels, `[n, width]`."""
        with self._itself():
            return self.body.hidden(pack)

    def _itself(self) -> AbstractContextManager[None]:
        return self.body.without_adapter() if self.is_own else nullcontext()

    @torch.inference_mode()
    def signals(
        self,
        views: Sequence[View],
        ends: Sequence[Sequence[int]],
        cache: SignalCache,
        pack: Packer,
        chunk_tokens: int,
        n_vocabulary: int,
    ) -> list[RowSignals]:
        """Return the signals of views; ids from `n_vocabulary` on are not the student's and left out."""
        made = [_empty(np.asarray(end, dtype=np.int32), cache.top_k) for end in ends]
        k = min(cache.top_k, n_vocabulary)
        with self._itself():
            for packed in pack(views):
                hidden = self.body.hidden(packed)
                targets = torch.tensor(packed.targets, device=hidden.device)
                for start in range(0, len(packed.labels), chunk_tokens):
                    part = slice(start, start + chunk_tokens)
                    log_probs = self.body.logits(hidden[part])[:, :n_vocabulary].log_softmax(-1)
                    chosen = log_probs.gather(-1, targets[part, None])[:, 0]
                    top = log_probs.topk(k, dim=-1)
                    tail = (1 - top.values.exp().sum(-1)).clamp_min(0)
                    kept = top.indices.int(), top.values.half(), tail.half(), chosen
                    found = [x.cpu().numpy() for x in kept]
                    for label, (number, place) in enumerate(packed.labels[part]):
                        row = made[number]
                        row.ids[place, :k], row.log_probs[place, :k] = found[0][label], found[1][label]
                        row.tail[place], row.chosen[place] = found[2][label], found[3][label]
        return made


class TeacherSignals:
    """The signals of a dataset's rows, whichever teacher gave them."""

    def __init__(
        self,
        cache: SignalCache,
        *,
        n_vocabulary: int,
        stretches: Mapping[str, Sequence[Stretch]] | None = None,
        is_live: bool = False,
        pack: Packer | None = None,
    ) -> None:
        """Take signals out of `cache`.

        Args:
            cache: Where they are kept.
            n_vocabulary: Token ids that the student knows (that the teacher knows, where it has another
                vocabulary).
            stretches: For a teacher with another vocabulary: bytes of each student label, by the row's id.
            is_live: Whether an objective wants the teacher's states.
            pack: Makes packs of teacher views for a live teacher.
        """
        self.cache = cache
        self.top_k = cache.top_k
        self.n_vocabulary = n_vocabulary
        self._stretches = stretches or {}
        self._found: dict[str, RowSignals] = {}
        self._alignments: dict[str, Alignment] = {}
        self._live: TeacherModel | None = None
        self._is_live = is_live
        self._pack = pack

    def prepare(
        self,
        rows: Sequence[Row],
        teacher: Callable[[], TeacherModel] | None,
        *,
        pack: Packer,
        chunk_tokens: int,
        on_rows: Callable[[int], None],
        ends: Mapping[str, Sequence[int]] | None = None,
    ) -> int:
        """Load what is cached, compute and store the rest; return the number of rows computed.

        Args:
            rows: Rows; those without a teacher view are skipped.
            teacher: Loads the teacher, and is called only where rows are missing or its states are wanted;
                None for a teacher whose signals were fetched before. Raises TrainError for missing rows then.
            pack: Makes packs of views.
            chunk_tokens: Label positions whose logits exist at one time.
            on_rows: Called with the number of rows that are cached, where not all are, then with those that
                each shard adds.
            ends: Byte after each of the teacher's label tokens by row key, where its vocabulary is another.
        """
        views = {row_key(row.teacher): row.teacher for row in rows if row.teacher is not None}
        self._found.update(self.cache.read(views.keys()))
        missing = sorted((key for key in views if key not in self._found), key=lambda key: views[key].ids)
        self._pack = pack
        if teacher is None:
            self._refuse_gaps(missing, len(views))
            return 0
        if missing and len(missing) < len(views):
            on_rows(len(views) - len(missing))
        if missing or self._is_live:
            model = teacher()
            self._live = model if self._is_live else None

            def compute(keys: list[str]) -> list[RowSignals]:
                return self._compute(model, [views[key] for key in keys], pack, chunk_tokens, ends)

            self._found.update(self.cache.fill(missing, compute, on_rows))
        return len(missing)

    def hold(
        self, rows: Sequence[Row], teacher: TeacherModel, *, pack: Packer, chunk_tokens: int
    ) -> list[str]:
        """Compute signals of rows that exist for a few steps, in memory alone; return their keys."""
        views = {row_key(row.teacher): row.teacher for row in rows if row.teacher is not None}
        new = [key for key in views if key not in self._found]
        found = self._compute(teacher, [views[key] for key in new], pack, chunk_tokens, None)
        self._found.update(zip(new, found, strict=True))
        return new

    def forget(self, keys: Iterable[str]) -> None:
        """Drop signals that were held."""
        for key in keys:
            self._found.pop(key, None)

    def of_pack(self, pack: Pack, rows: Sequence[Row], device: torch.device) -> PackSignals:
        """Gather the signals of a pack of student views; `rows` are the rows that were packed, in order."""
        n, k = len(pack.labels), self.top_k
        ids, log_probs = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
        tail = np.ones(n)
        has_teacher = np.zeros(n, bool)
        source = np.zeros((n, 2), np.int64)  # row and teacher token of each label
        for number, labels, places in _labels_by_row(pack):
            signals = self._signals(rows[number])
            if signals is None:
                continue
            tokens = self._tokens(rows[number], signals, places)
            at, tokens = labels[tokens >= 0], tokens[tokens >= 0]
            ids[at], log_probs[at], tail[at] = (
                signals.ids[tokens], signals.log_probs[tokens], signals.tail[tokens],
            )  # fmt: skip
            has_teacher[at], source[at, 0], source[at, 1] = True, number, tokens
        _rescale(log_probs, tail)
        _fill(ids, self.n_vocabulary)
        hidden = self._hidden(rows, source, has_teacher, device) if self._live else None
        return PackSignals(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(log_probs).to(device),
            torch.from_numpy(has_teacher).to(device),
            hidden,
        )

    def spans_of_pack(self, pack: Pack, rows: Sequence[Row], device: torch.device) -> PackSpans | None:
        """Return the stretches of text that student and teacher both end, with the teacher's log-probability.

        A span weighs the mean of its labels. None where the pack has none.
        """
        span_of = np.full(len(pack.labels), -1, np.int64)
        log_p: list[float] = []
        weights: list[float] = []
        n_labels: list[float] = []
        for number, labels, places in _labels_by_row(pack):
            signals = self._signals(rows[number])
            label_of = dict(zip(places.tolist(), labels.tolist(), strict=True))
            for first, after, token, stop in self._alignment(rows[number], signals).spans if signals else ():
                inside = [label_of[place] for place in range(first, after) if place in label_of]
                span_of[inside] = len(log_p)
                log_p.append(float(signals.chosen[token:stop].astype(np.float64).sum()) if signals else 0.0)
                weights.append(sum(pack.weights[label] for label in inside) / len(inside))
                n_labels.append(len(inside))
        if not log_p:
            return None
        m = len(log_p)
        return PackSpans(
            span_of=torch.from_numpy(span_of).to(device),
            factors=torch.ones(len(span_of), device=device),
            n_labels=torch.tensor(n_labels, device=device),
            weights=torch.tensor(weights, device=device),
            pair=torch.full((m,), -1, device=device),
            is_rejected=torch.zeros(m, dtype=torch.bool, device=device),
            log_p=torch.tensor(log_p, device=device),
        )

    def _signals(self, row: Row) -> RowSignals | None:
        return None if row.teacher is None else self._found[row_key(row.teacher)]

    def _tokens(self, row: Row, signals: RowSignals, places: np.ndarray) -> np.ndarray:
        """Return the teacher token that begins with each label of a row; -1 where none does."""
        if self.cache.unit == "token":
            return np.where(places < len(signals.ends), places, -1)
        starts = np.array(self._alignment(row, signals).starts, np.int64).reshape(-1, 2)
        token_of = np.full(places.max() + 1, -1)
        known = starts[starts[:, 0] < len(token_of)]
        token_of[known[:, 0]] = known[:, 1]
        found: np.ndarray = token_of[places]
        return found

    def _alignment(self, row: Row, signals: RowSignals) -> Alignment:
        if self.cache.unit == "token":
            n = len(signals.ends)
            return Alignment(tuple((i, i) for i in range(n)), tuple((i, i + 1, i, i + 1) for i in range(n)))
        if row.id not in self._alignments:
            self._alignments[row.id] = align(self._stretches.get(row.id, ()), signals.ends.tolist())
        return self._alignments[row.id]

    def _compute(
        self,
        model: TeacherModel,
        views: Sequence[View],
        pack: Packer,
        chunk_tokens: int,
        ends: Mapping[str, Sequence[int]] | None,
    ) -> list[RowSignals]:
        counted = [ends[row_key(v)] if ends else range(1, len(v.labels) + 1) for v in views]
        return model.signals(views, counted, self.cache, pack, chunk_tokens, self.n_vocabulary)

    def _hidden(
        self, rows: Sequence[Row], source: np.ndarray, has_teacher: np.ndarray, device: torch.device
    ) -> torch.Tensor:
        """Run the teacher over the rows of a pack; return its states at the student's labels."""
        assert self._live is not None
        assert self._pack is not None
        numbers = sorted({int(number) for number in source[has_teacher][:, 0]})
        views = [view for number in numbers if (view := rows[number].teacher) is not None]
        states: dict[tuple[int, int], torch.Tensor] = {}
        width = 1
        for packed in self._pack(views):
            found = self._live.hidden(packed).float()
            width = found.shape[1]
            states |= {(numbers[n], place): found[i] for i, (n, place) in enumerate(packed.labels)}
        nothing = torch.zeros(width)
        picked = [
            states[int(number), int(token)] if has else nothing.to(device)
            for (number, token), has in zip(source, has_teacher, strict=True)
        ]
        return torch.stack([state.to(device) for state in picked]).clone()

    def _refuse_gaps(self, missing: Sequence[str], n: int) -> None:
        if missing:
            raise TrainError(
                f"{len(missing)} of {n} rows have no signals of the remote teacher in `{self.cache.folder}`",
                hint="train through a workspace (`agentkd train`): it fetches them before training starts",
            )


def _empty(ends: np.ndarray, k: int) -> RowSignals:
    n = len(ends)
    return RowSignals(
        ids=np.full((n, k), -1, np.int32),
        log_probs=np.full((n, k), -np.inf, np.float16),
        tail=np.zeros(n, np.float16),
        chosen=np.zeros(n, np.float32),
        ends=ends,
    )


def _rescale(log_probs: np.ndarray, tail: np.ndarray) -> None:
    """Scale tops `[n, k]` so that what they leave is the stored tail `[n]`, not what float16 left of it.

    A tail of a half or more is the less exact of the two: such positions stay as they are.
    """
    known = np.nonzero(tail < 0.5)[0]
    top = np.exp(log_probs[known], dtype=np.float64).sum(1)
    log_probs[known] += (np.log1p(-tail[known]) - np.log(top))[:, None].astype(np.float32)


def _fill(ids: np.ndarray, n_vocabulary: int) -> None:
    """Give places without a token (-1) ids that the position has not: the last ones of the vocabulary.

    Losses want distinct ids; the log-probability there is minus infinity.
    """
    for row in np.nonzero((ids < 0).any(axis=1))[0]:
        used = {int(token) for token in ids[row] if token >= 0}
        spare = (token for token in range(n_vocabulary - 1, -1, -1) if token not in used)
        for place in np.nonzero(ids[row] < 0)[0]:
            ids[row, place] = next(spare, 0)


def _labels_by_row(pack: Pack) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield, for each packed row, its number, its labels in the pack, and their places in the row."""
    numbers, places = np.array(pack.labels, np.int64).reshape(-1, 2).T
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    for number, labels in zip(found.tolist(), np.split(order, starts[1:]), strict=False):
        yield number, labels, places[labels]
