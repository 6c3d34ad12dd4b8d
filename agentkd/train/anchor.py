"""Anchors: general text on which the student stays where its base is while it learns its tasks.

An adapter that learns nothing but tool calls answers everything with a tool call. So a few general texts
(`anchors.jsonl`, or a file of your own) go through every optimiser step with one more term, the divergence
of the student from its base, KL(base || student), at every token of the text. The base's distributions
are computed once, with the adapter off, before the first step; no labels are needed.

Source: Z. Li and D. Hoiem, Learning without Forgetting, arXiv 1606.09282, with text for images.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentkd import hf
from agentkd.errors import AgentkdError, DataError
from agentkd.schema import AnchorSettings, Message, TrainJob
from agentkd.train.body import Body
from agentkd.train.objectives.divergence import top_k_forward_kl
from agentkd.train.packing import Pack
from agentkd.train.rows import View

__all__ = ["Anchors", "prepare_anchors", "read_anchors"]

SHIPPED = Path(__file__).with_name("anchors.jsonl")

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


def prepare_anchors(job: TrainJob, body: Body, pack: Packer) -> Anchors | None:
    """Return the anchors of a job with what the base says on them; None where they have no weight."""
    settings = job.settings
    if not settings.anchor.weight:
        return None
    file = Path(settings.anchor.path).expanduser() if settings.anchor.path else SHIPPED
    views = read_anchors(hf.load_tokenizer(job.base), file, settings.max_tokens_per_row)
    anchors = Anchors(
        settings.anchor, views, pack, tokens_per_step=settings.tokens_per_step, seed=settings.seed
    )
    anchors.prepare(body)
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


@dataclass(frozen=True)
class _Known:
    """What the base says at the labels of one anchor."""

    top_ids: torch.Tensor
    log_probs: torch.Tensor


class Anchors:
    """The anchors of one job: a few of them in every step, in an order that the seed gives."""

    def __init__(
        self,
        settings: AnchorSettings,
        views: Sequence[View],
        pack: Packer,
        *,
        tokens_per_step: int,
        seed: int,
    ) -> None:
        """Take general texts; `pack` makes packs of views."""
        self.settings = settings
        self._pack = pack
        self.views = list(views)
        mean = sum(view.n_tokens for view in self.views) / len(self.views)
        self._per_step = max(1, round(settings.share * tokens_per_step / mean))
        self._seed = seed
        self._known: list[_Known] = []

    @torch.no_grad()
    def prepare(self, body: Body) -> None:
        """Ask the base, adapter off, for its distributions at every label."""
        k = min(self.settings.top_k, body.n_vocabulary)
        found: list[list[_Known]] = [[] for _ in self.views]
        with body.without_adapter():
            for packed in self._pack(self.views):
                top = body.logits(body.hidden(packed)).log_softmax(-1).topk(k, dim=-1)
                for (number, _), ids, values in zip(packed.labels, top.indices, top.values, strict=True):
                    found[number].append(_Known(ids, values))
        self._known = [
            _Known(torch.stack([one.top_ids for one in each]), torch.stack([one.log_probs for one in each]))
            for each in found
        ]

    def of_step(self, step: int) -> Iterator[int]:
        """Yield the anchors of a step: one shuffle after another, so that all of them come equally often."""
        n = len(self.views)
        for place in range(step * self._per_step, (step + 1) * self._per_step):
            order = list(range(n))
            random.Random(f"anchors/{self._seed}/{place // n}").shuffle(order)
            yield order[place % n]

    def accumulate(self, body: Body, step: int) -> float:
        """Add the gradient of the step's anchors to the adapter; return the weighted mean divergence."""
        numbers = list(self.of_step(step))
        views = [self.views[number] for number in numbers]
        n_labels = sum(len(view.labels) for view in views)
        total = 0.0
        for packed in self._pack(views):
            places = [(numbers[number], place) for number, place in packed.labels]
            top_ids = torch.stack([self._known[number].top_ids[place] for number, place in places])
            log_probs = torch.stack([self._known[number].log_probs[place] for number, place in places])
            logits = body.logits(body.hidden(packed))
            weights = torch.ones(len(places), device=body.device)
            loss = top_k_forward_kl(logits, top_ids, log_probs, weights) / n_labels
            (self.settings.weight * loss).backward()  # type: ignore[no-untyped-call]
            total += self.settings.weight * float(loss.detach())
        return total
