"""On-policy rows: the student answers from its own view, and is corrected on what it says itself.

Before the first of every few steps the student samples completions for a share of those steps' rows, as it is
at that moment. The teacher reads the same completions after its own prompt. Draws depend on the seed, the
step and the adapter alone, and what was drawn is part of the objective's state: a training that goes on
from a save goes on with the same completions.

Source: R. Agarwal et al., On-Policy Distillation of Language Models, arXiv 2306.13649.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from agentkd.errors import ConfigError
from agentkd.schema import TrainJob, TrainSettings
from agentkd.train.batch import Weighted
from agentkd.train.body import Body
from agentkd.train.lora import without_dropout
from agentkd.train.model import decoder_layers
from agentkd.train.rows import Row, View
from agentkd.train.signals import Packer, TeacherModel, TeacherSignals

__all__ = ["Policy", "check_sampling", "make_policy", "sample", "with_completion"]

_ROWS_AT_ONCE = 16

Completions = dict[str, dict[str, list[int]]]
"""Sampled token ids by step and place in the step, as JSON keeps them."""


def with_completion(view: View, completion: Sequence[int]) -> View:
    """Return a view with another completion in the place of its last one, every token of which is a label."""
    prompt = view.ids[: _last_completion(view)]
    labels = tuple(range(len(prompt), len(prompt) + len(completion)))
    return View((*prompt, *completion), labels, (max(view.weights),) * len(completion))


def _last_completion(view: View) -> int:
    """Return where the last run of neighbouring labels begins."""
    start = view.labels[-1]
    for label in reversed(view.labels[:-1]):
        if label != start - 1:
            break
        start = label
    return start


@torch.inference_mode()
def sample(
    body: Body,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Iterable[int],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """Return a completion per prompt, with the token that ended it; on a CPU equal calls give equal ones.

    Drawn from the student's whole distribution, whatever defaults its `generation_config` has.
    """
    from transformers import GenerationConfig

    ends = sorted(set(stops))
    config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    found: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda n: (len(prompts[n]), n))
    devices = [body.device] if body.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _as_served(body) as model:
        torch.manual_seed(seed)
        for start in range(0, len(order), _ROWS_AT_ONCE):
            numbers = order[start : start + _ROWS_AT_ONCE]
            width = max(len(prompts[n]) for n in numbers)
            pads = [width - len(prompts[n]) for n in numbers]
            ids = [[ends[0]] * pad + list(prompts[n]) for pad, n in zip(pads, numbers, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in pads]
            said = model.generate(
                input_ids=torch.tensor(ids, device=body.device),
                attention_mask=torch.tensor(mask, device=body.device),
                generation_config=config,
            )[:, width:].tolist()
            for number, tokens in zip(numbers, said, strict=True):
                n = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
                found[number] = tokens[:n]
    return found


@contextmanager
def _as_served(body: Body) -> Iterator[Any]:
    """Give the causal model without dropout and with its cache, which recomputed activations go without."""
    layers = [layer for layer in decoder_layers(body.model) if layer.training]
    for layer in layers:
        layer.training = False
    try:
        with without_dropout(body.model), body.usual_attention() as model, _without_own_defaults(model):
            yield model
    finally:
        for layer in layers:
            layer.training = True


@contextmanager
def _without_own_defaults(model: Any) -> Iterator[None]:
    """Take the model's defaults off: `generate` fills from them what it is not told, such as penalties."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@dataclass
class Policy:
    """Draws the completions of one objective; see `agentkd.train.feed.PolicySource`."""

    objective: Any
    """Has `sampling` (its options) and `drawn` (what was drawn, part of its state)."""
    rows: Sequence[Row]
    """All rows."""
    steps: Sequence[Sequence[int]]
    """The rows of every step."""
    body: Body
    """The student, and its own teacher."""
    signals: TeacherSignals
    """Where the teacher's answers are held."""
    pack: Packer
    """Makes packs of views."""
    chunk_tokens: int
    """Label positions whose logits exist at one time."""
    max_tokens: int
    """Longest row."""
    seed: int
    """Seed of the training."""
    agree: Callable[[Any], Any] = lambda value: value
    """Makes all processes take what the first one drew."""
    _block: int = -1
    _held: list[str] = field(default_factory=list)
    _made: dict[int, dict[int, Row]] = field(default_factory=dict)

    def rows_of(self, step: int) -> dict[int, Row]:
        """Return a row with the sampled completion for some of the step's places."""
        block = step // self.objective.sampling.every
        if block != self._block:
            if self.objective.drawn.get("block") != block:
                self.objective.drawn = {"block": block, "completions": self.agree(self._draw(block))}
            self._make(self.objective.drawn["completions"])
            self._block = block
        return self._made.get(step, {})

    def _draw(self, block: int) -> Completions:
        sampling = self.objective.sampling
        first = block * sampling.every
        places = [
            (step, place)
            for step in range(first, min(first + sampling.every, len(self.steps)))
            for place in self._places(step)
        ]
        views = [self.rows[self.steps[step][place]] for step, place in places]
        prompts = [row.student.ids[: _last_completion(row.student)] for row in views]
        longest = max((self._longest_prompt(row) for row in views), default=0)
        said = sample(
            self.body,
            prompts,
            stops=self._stops(),
            max_new_tokens=max(1, min(sampling.max_new_tokens, self.max_tokens - longest)),
            temperature=sampling.temperature,
            seed=random.Random(f"{self.seed}/{block}/policy").getrandbits(63),
        )
        found: Completions = {}
        for (step, place), completion in zip(places, said, strict=True):
            found.setdefault(str(step), {})[str(place)] = completion
        return found

    def _places(self, step: int) -> list[int]:
        """Return the places of a step whose rows are answered anew, a `share` of those with a teacher.

        Chance decides about a part of a row: rounded away, it would be lost in every step of few rows.
        """
        rows = [self.rows[number] for number in self.steps[step]]
        taught = [place for place, row in enumerate(rows) if row.teacher and row.student.labels]
        wanted = self.objective.sampling.share * len(taught)
        chance = random.Random(f"{self.seed}/{step}/share")
        n = int(wanted) + (chance.random() < wanted % 1)
        return sorted(chance.sample(taught, n))

    def _longest_prompt(self, row: Row) -> int:
        return max(_last_completion(view) for view in (row.student, row.teacher) if view is not None)

    def _stops(self) -> set[int]:
        """Return the tokens that end an answer: the model's, and the one that ends most of the targets."""
        known = self.body.end_ids()
        ((usual, _),) = Counter(row.student.ids[-1] for row in self.rows if row.student.ids).most_common(1)
        return {*known, usual}

    def _make(self, completions: Completions) -> None:
        """Turn completions into rows, and let the teacher read them."""
        self.signals.forget(self._held)
        self._made = {}
        for step, places in completions.items():
            numbers = self.steps[int(step)]
            self._made[int(step)] = {
                int(place): _row(self.rows[numbers[int(place)]], said) for place, said in places.items()
            }
        rows = [row for places in self._made.values() for row in places.values()]
        self._held = self.signals.hold(
            rows, TeacherModel(self.body, is_own=True), pack=self.pack, chunk_tokens=self.chunk_tokens
        )


def _row(row: Row, completion: Sequence[int]) -> Row:
    teacher = with_completion(row.teacher, completion) if row.teacher else None
    return Row(row.id, with_completion(row.student, completion), teacher)


def check_sampling(settings: TrainSettings, objectives: Sequence[Weighted]) -> None:
    """Raise ConfigError for a teacher or a way of training with which the student cannot sample."""
    asking = [weighted for weighted in objectives if weighted.samples]
    if not asking:
        return
    trouble = {
        f"two objectives sample: `{asking[0].name}` and `{asking[-1].name}`": len(asking) > 1,
        "`[train] teacher` names another model; the teacher that reads samples is the own base": bool(
            settings.teacher
        ),
        '`[train] sharding = "fsdp"`': settings.sharding == "fsdp",
    }
    for what, is_so in trouble.items():
        if is_so:
            raise ConfigError(
                f"`{asking[0].name}` cannot learn from samples: {what}",
                hint=f'set `[train.objective.{asking[0].name}] policy = "off"`',
            )


def make_policy(
    job: TrainJob,
    objectives: Sequence[Weighted],
    rows: Sequence[Row],
    steps: Sequence[Sequence[int]],
    body: Body,
    *,
    signals: TeacherSignals | None,
    pack: Packer,
    chunk_tokens: int,
    agree: Callable[[Any], Any],
) -> Policy | None:
    """Return what draws completions, where an objective asks for it; what `check_sampling` lets through."""
    asking = [weighted for weighted in objectives if weighted.samples]
    if not asking or signals is None:
        return None
    settings = job.settings
    return Policy(
        asking[0].objective, rows, steps, body, signals, pack, chunk_tokens, settings.max_tokens_per_row,
        settings.seed, agree,
    )  # fmt: skip
