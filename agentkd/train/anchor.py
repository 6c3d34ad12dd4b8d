"""Anchors: general text on which the student stays where its base is while it learns its tasks.

An adapter that learns nothing but tool calls answers everything with a tool call. So a few general texts
(`anchors.jsonl`, or a file of your own) go through every optimiser step with one more term, the divergence
of the student from its base, KL(base || student), at every token of the text. The base's distributions
are computed once, with the adapter off, before the first step; no labels are needed.

Source: Z. Li and D. Hoiem, Learning without Forgetting, arXiv 1606.09282, with text for images.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agentkd import hf
from agentkd.errors import AgentkdError, DataError
from agentkd.schema import AnchorSettings, Message, TrainJob
from agentkd.train.batch import TEACHER, Batch, PackSignals, Weighted
from agentkd.train.body import Body
from agentkd.train.finish import SHIPPED_ANCHORS as SHIPPED
from agentkd.train.finish import anchor_file
from agentkd.train.lora import without_dropout
from agentkd.train.loss import StepScale, accumulate
from agentkd.train.objectives.divergence import top_k_forward_kl
from agentkd.train.packing import Pack
from agentkd.train.rows import View

if TYPE_CHECKING:
    from agentkd.protocols import StepContext

__all__ = ["ANCHOR", "Anchors", "prepare_anchors", "read_anchors"]


ANCHOR = "anchor"
"""Name of the anchors' term."""

Packer = Callable[[Sequence[View]], Iterable[Pack]]


def read_anchors(tokenizer: Any, file: Path = SHIPPED, max_tokens: int = 512) -> list[View]:
    """Read general texts as views: every token of a `text`, the reply of a `request` and `reply`.

    Raises DataError with `path` and `line` for a line that is neither, or that is longer than `max_tokens`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"`{file}` cannot be read: {error.strerror}", path=str(file)) from error
    views = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            view = _view(tokenizer, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, AgentkdError) as error:
            raise DataError(
                f"line {number} of `{file}` is no anchor: {error}",
                hint='write {"text": ...} or {"request": ..., "reply": ...}',
                path=str(file),
                line=number,
            ) from error
        if len(view.ids) > max_tokens:
            raise DataError(
                f"line {number} of `{file}` has {len(view.ids)} tokens, more than {max_tokens}",
                hint="split it",
                path=str(file),
                line=number,
            )
        views.append(view)
    if not views:
        raise DataError(f"`{file}` holds no anchors", path=str(file))
    return views


def prepare_anchors(
    job: TrainJob, body: Body, pack: Packer, *, chunk_tokens: int, n_steps: int
) -> Anchors | None:
    """Return the anchors of a job with what the base says on them; None where they have no weight."""
    settings = job.settings
    if not settings.anchor.weight:
        return None
    tokenizer = hf.load_tokenizer(job.base)
    if settings.anchor.path:
        views = read_anchors(tokenizer, anchor_file(settings.anchor), settings.max_tokens_per_row)
    else:
        views = read_anchors(tokenizer)
    anchors = Anchors(
        settings.anchor, views, pack,
        tokens_per_step=settings.tokens_per_step, chunk_tokens=chunk_tokens, seed=settings.seed,
    )  # fmt: skip
    with without_dropout(body.model):
        anchors.prepare(body, n_steps)
    return anchors


def _view(tokenizer: Any, entry: dict[str, str]) -> View:
    if "text" in entry:
        ids = tuple(tokenizer.backend_tokenizer.encode(entry["text"], add_special_tokens=False).ids)
        if len(ids) < 2:
            raise ValueError("a text needs two tokens")
        return View(ids, tuple(range(1, len(ids))), (1.0,) * (len(ids) - 1))
    asked = Message(role="user", content=entry["request"])
    rendered = hf.render_example(tokenizer, [asked], Message(role="assistant", content=entry["reply"]))
    labels = tuple(place for place, weight in enumerate(rendered.weights) if weight)
    return View(rendered.ids, labels, (1.0,) * len(labels))


class _HoldToBase:
    """KL(base || student) on the base's top tokens; chunked by the trainer as any objective is."""

    name = ANCHOR
    requires = frozenset({TEACHER})

    def forward(self, context: StepContext) -> dict[str, torch.Tensor]:
        """Return the mean divergence as the term `anchor`."""
        ids, log_probs = context.teacher_top_ids, context.teacher_top_log_probs
        assert ids is not None
        assert log_probs is not None
        total = top_k_forward_kl(context.logits, ids, log_probs, context.weights)
        return {self.name: total / context.normaliser}


class Anchors:
    """The anchors of one job: a few of them in every step, in an order that the seed gives."""

    def __init__(
        self,
        settings: AnchorSettings,
        views: Sequence[View],
        pack: Packer,
        *,
        tokens_per_step: int,
        chunk_tokens: int,
        seed: int,
    ) -> None:
        """Take general texts; `pack` makes packs of views, and logits of `chunk_tokens` exist at one time."""
        self.settings = settings
        self.views = list(views)
        self._pack, self._chunk_tokens = pack, chunk_tokens
        mean = sum(view.n_tokens for view in self.views) / len(self.views)
        self._per_step = max(1, round(settings.share * tokens_per_step / mean))
        self._seed = seed
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def prepare(self, body: Body, n_steps: int) -> None:
        """Ask the base, adapter off, for its distributions at every label of the anchors of all steps."""
        numbers = sorted({number for step in range(n_steps) for number in self.of_step(step)})
        k = min(self.settings.top_k, body.n_vocabulary)
        for number in numbers:
            shape = (len(self.views[number].labels), k)
            ids = torch.zeros(shape, dtype=torch.int64, device=body.device)
            self._known[number] = (ids, torch.zeros(shape, device=body.device))
        with body.without_adapter():
            for packed in self._pack([self.views[number] for number in numbers]):
                hidden = body.hidden(packed)
                for start in range(0, len(packed.labels), self._chunk_tokens):
                    part = slice(start, start + self._chunk_tokens)
                    top = body.logits(hidden[part]).log_softmax(-1).topk(k, dim=-1)
                    for (view, place), ids, values in zip(
                        packed.labels[part], top.indices, top.values, strict=True
                    ):
                        known = self._known[numbers[view]]
                        known[0][place], known[1][place] = ids, values

    def of_step(self, step: int) -> Iterator[int]:
        """Yield the anchors of a step: one shuffle after another, so that all of them come equally often."""
        n = len(self.views)
        for place in range(step * self._per_step, (step + 1) * self._per_step):
            yield _shuffled(n, self._seed, place // n)[place % n]

    def views_of(self, step: int) -> list[View]:
        """Return the general texts of a step."""
        return [self.views[number] for number in self.of_step(step)]

    def accumulate(
        self, body: Body, step: int, share: float = 1.0, places: Sequence[int] | None = None
    ) -> float:
        """Add a share of the gradient of the step's anchors, or of those at some places, to the adapter.

        Returns what the divergence of the step gets from them, without its weight.
        """
        numbers = list(self.of_step(step))
        normaliser = float(sum(len(self.views[number].labels) for number in numbers))
        if places is not None:
            numbers = [numbers[place] for place in places]
        if not numbers:
            return 0.0
        views = [self.views[number] for number in numbers]
        scale = StepScale({ANCHOR: normaliser}, step, step + 1, self._chunk_tokens)
        held = [Weighted(_HoldToBase(), self.settings.weight * share, "agentkd")]
        ids, log_probs = (torch.cat(known) for known in zip(*(self._known[n] for n in numbers), strict=True))
        starts = list(itertools.accumulate((len(view.labels) for view in views), initial=0))
        total = 0.0
        for packed in self._pack(views):
            labels = torch.tensor([starts[number] + place for number, place in packed.labels])
            signals = PackSignals(
                ids[labels.to(ids.device)],
                log_probs[labels.to(ids.device)],
                torch.ones(len(labels), dtype=torch.bool),
            )
            total += accumulate(body, Batch.of(packed, signals), held, scale).terms[ANCHOR]
        return share * total


@functools.lru_cache(maxsize=2)
def _shuffled(n: int, seed: int, turn: int) -> tuple[int, ...]:
    """Return the order in which all anchors come in one turn."""
    order = list(range(n))
    random.Random(f"anchors/{seed}/{turn}").shuffle(order)
    return tuple(order)
