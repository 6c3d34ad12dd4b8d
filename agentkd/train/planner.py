"""Predicts what a training takes and makes it fit: packs, chunks, and at last recomputed activations.

The parts of the peak: this process with its imports (measured), the teacher's signals of all rows, weights,
adapter with gradient and Adam's two moments (counted), activations of the largest pack (bytes per token from
`probe`), logits of one chunk, what is loaded before the first step beyond what is free then: a second model,
or the whole base that `fsdp` splits. Activations and logits live one after the other and both count, because
an allocator gives little back in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agentkd.errors import TrainError
from agentkd.schema import TrainJob
from agentkd.train.attention import MAX_KEPT
from agentkd.train.batch import Weighted
from agentkd.train.memory import memory_limit_mib, resident_mib
from agentkd.train.packing import MAX_PAIRS, Pack
from agentkd.train.probe import LayerCost, head_seconds, probe_layers
from agentkd.train.rows import View
from agentkd.train.second import NOBODY, Beside
from agentkd.train.shape import Shape, adapter_settings

__all__ = [
    "Fit",
    "Load",
    "chunk_for",
    "fit",
    "measure_load",
]

_MIB = 2**20
_PROBED_TOKENS = 256
_SAMPLED_STEPS = 64
_LEAST_PACK, _LEAST_CHUNK = 256, 32
_CPU_PACK, _GPU_PACK = 3072, 32768
_GPU_PAIRS = 1 << 26
_CPU_LOGITS = 1 << 24  # of one chunk; more take memory and save no time
_LOGIT_TENSORS = (
    6  # float32 copies of a chunk's logits that the process holds, by measured runs of SmolLM2-135M
)
_ADAPTER_BYTES = 16  # per parameter: itself, its gradient, two moments
_QUANTISED_BYTES = 0.6  # per parameter of a layer in 4 bits, with its scales
_SLACK = 1.05  # what an allocator holds beyond what is alive

Packs = Callable[[Sequence[int], int, int], Iterator[Pack]]
"""Makes the packs of a step's rows, of at most so many tokens and query-key pairs."""


@dataclass(frozen=True)
class Load:
    """The packs of a job."""

    largest: int
    """Tokens that the largest pack computes."""
    n_computed: int
    """Tokens of the rows computed over all steps."""
    most_labels: int
    """Labels of the pack with the most."""
    n_general: int = 0
    """Tokens of general text beside the rows, over all steps."""
    most_pairs: int = 0
    """Query-key pairs of the pack with the most."""


@dataclass(frozen=True)
class Fit:
    """Sizes that fit, and what they come to."""

    pack_tokens: int
    """Most tokens that one pack computes."""
    pack_pairs: int
    """Most query-key pairs of one pack."""
    chunk_tokens: int
    """Label positions whose logits exist at one time."""
    recompute: bool
    """Whether activations are computed again."""
    parts: dict[str, float]
    """MiB of each part of the peak."""
    seconds: float
    """Time of all steps."""
    forward_seconds: float
    """Time of a forward pass alone, per token."""
    load: Load
    """The packs."""
    limit_mib: float
    """What it had to fit into."""

    @property
    def memory_mib(self) -> float:
        """Predicted peak."""
        return sum(self.parts.values())


def measure_load(
    steps: Sequence[Sequence[int]],
    packs: Packs,
    pack_tokens: int,
    pack_pairs: int,
    heaviest: Collection[int] = (),
) -> Load:
    """Pack the steps (a sample of them, of a long job) and count.

    The steps of the rows in `heaviest` are looked at for the maxima whatever the sample.
    """
    sampled = range(0, len(steps), max(1, len(steps) // _SAMPLED_STEPS))
    heavy = {next(step for step, rows in enumerate(steps) if row in rows) for row in heaviest}
    largest = computed = labels = pairs = 0
    for step in sorted({*sampled, *heavy}):
        for pack in packs(steps[step], pack_tokens, pack_pairs):
            largest, labels = max(largest, len(pack.tokens)), max(labels, len(pack.targets))
            pairs = max(pairs, pack.n_pairs)
            computed += len(pack.tokens) if step in sampled else 0
    return Load(largest, round(computed * len(steps) / len(sampled)), labels, most_pairs=pairs)


def fit(
    job: TrainJob,
    shape: Shape,
    config: Any,
    views: Sequence[View],
    steps: Sequence[Sequence[int]],
    packs: Packs,
    *,
    device: str,
    dtype: str,
    n_labels: int,
    signals: int = 0,
    others: Beside = NOBODY,
    imports: float | None = None,
    heaviest: Collection[int] = (),
    processes: int = 1,
    objectives: Sequence[Weighted] = (),
) -> Fit:
    """Choose sizes whose predicted peak is within the limit; raises TrainError where nothing fits.

    `n_labels` are the trained tokens of the whole job, `signals` the bytes of the teacher's signals (all are
    held at one time), `others` the models beside the student, `imports` the MiB of this process (None:
    measured), `heaviest` the rows that no sample may miss. `processes` share the work. Of the
    `objectives` some may need whole rows.
    """
    if imports is None:
        imports = 0.0 if device.startswith("cuda") else resident_mib()
    limit = memory_limit_mib(job, device, processes)
    views = [view for view in views if view.labels]
    held = {"imports": imports, **({"signals": signals / _MIB} if signals else {})}
    bench = _Bench(
        job, shape, config, _probed(views), device, dtype, held, limit, others, processes,
        _longest_row(objectives, views),
    )  # fmt: skip
    wanted = job.settings.gradient_checkpointing
    is_cpu = not device.startswith("cuda")
    first = _CPU_PACK if is_cpu else _GPU_PACK
    pairs = MAX_PAIRS if is_cpu else _GPU_PAIRS
    found: Fit | None = None
    for recompute in {"auto": (False, True), "on": (True,), "off": (False,)}[wanted]:
        cost = bench.cost(recompute)
        for tokens, chunk in _sizes(first, chunk_for(job.settings.chunk_tokens, shape.n_vocabulary, device)):
            load = measure_load(steps, packs, tokens, pairs, heaviest)
            load = _with_anchors(load, job, len(steps), tokens)
            found = bench.fit(cost, load, tokens, pairs, chunk, n_labels, recompute)
            if found.memory_mib <= limit:
                return found
    assert found is not None
    raise TrainError(
        f"this training needs about {found.memory_mib:,.0f} MiB at its smallest, more than {limit:,.0f} MiB",
        hint="raise `[train] max_memory`, take a smaller base or rank, or shorten the longest rows "
        f"({max(view.n_tokens for view in views)} tokens)",
    )


def _with_anchors(load: Load, job: TrainJob, n_steps: int, pack_tokens: int) -> Load:
    """Add the general text of every step, every token of which is a label at most."""
    settings = job.settings
    if not settings.anchor.weight:
        return load
    n = round(settings.anchor.share * settings.tokens_per_step)
    return Load(
        largest=max(load.largest, min(n, pack_tokens)),
        n_computed=load.n_computed,
        most_labels=max(load.most_labels, min(n, pack_tokens)),
        n_general=n * n_steps,
        most_pairs=load.most_pairs,
    )


def chunk_for(chunk_tokens: int, n_vocabulary: int, device: str) -> int:
    """Return the labels of a chunk before memory is looked at: fewer for large vocabularies on a CPU."""
    if device.startswith("cuda"):
        return chunk_tokens
    return min(chunk_tokens, max(_LEAST_CHUNK, _CPU_LOGITS // n_vocabulary))


def _sizes(first: int, chunk_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield sizes of packs and chunks, from the fastest to the smallest."""
    tokens, chunk = first, chunk_tokens
    while True:
        yield tokens, chunk
        if tokens <= _LEAST_PACK and chunk <= _LEAST_CHUNK:
            return
        tokens, chunk = max(_LEAST_PACK, tokens // 2), max(min(_LEAST_CHUNK, chunk), chunk // 2)


def _probed(views: Sequence[View]) -> list[View]:
    """Return a few views of middle length."""
    middle = sorted(views, key=lambda view: view.n_tokens)[len(views) // 2 :]
    chosen = [middle[0]]
    for view in middle[1:]:
        if sum(one.n_tokens for one in chosen) + view.n_tokens > _PROBED_TOKENS:
            break
        chosen.append(view)
    return chosen


@dataclass(frozen=True)
class _LongestRow:
    """What whole rows take of a chunk; nothing where no objective needs them whole."""

    n_labels: int = 0
    n_bytes: int = 0


def _longest_row(objectives: Sequence[Weighted], views: Sequence[View]) -> _LongestRow:
    whole = [w.objective for w in objectives if getattr(w.objective, "whole_rows", False)]
    if not whole:
        return _LongestRow()
    n_labels = max(len(view.labels) for view in views)
    needed = [objective.row_bytes(n_labels) for objective in whole if hasattr(objective, "row_bytes")]
    return _LongestRow(n_labels, sum(needed))


_costs: dict[tuple[object, ...], LayerCost] = {}


class _Bench:
    """Turns the cost of a token into the peak and the time of a job."""

    def __init__(
        self,
        job: TrainJob,
        shape: Shape,
        config: Any,
        views: Sequence[View],
        device: str,
        dtype: str,
        held: Mapping[str, float],
        limit: float,
        others: Beside,
        processes: int,
        longest: _LongestRow,
    ) -> None:
        self._job, self._shape, self._config, self._views = job, shape, config, views
        self._device, self._dtype, self._held, self._limit = device, dtype, held, limit
        self._others, self._processes = others, processes
        self._lora, self._longest = adapter_settings(job), longest
        self._head = head_seconds(shape.width, shape.n_vocabulary, device=device, dtype=dtype)
        self._bytes = torch.finfo(getattr(torch, dtype)).bits // 8
        self._is_quantised = job.settings.quantise != "none"
        self._layer_bytes = _QUANTISED_BYTES if self._is_quantised else self._bytes

    def cost(self, recompute: bool) -> LayerCost:
        """Probe, once per process for equal models and rows: that costs more than a tiny training."""
        asked = (
            self._config.to_json_string(use_diff=False), self._lora, tuple(self._views),
            self._device, self._dtype, recompute, self._is_quantised, torch.get_num_threads(),
        )  # fmt: skip
        if asked not in _costs:
            _costs[asked] = probe_layers(
                self._config,
                self._lora,
                self._views,
                device=self._device,
                dtype=self._dtype,
                recompute=recompute,
                is_fused=not self._is_quantised,
            )
        return _costs[asked]

    def fit(
        self,
        cost: LayerCost,
        load: Load,
        tokens: int,
        pairs: int,
        chunk: int,
        n_labels: int,
        recompute: bool,
    ) -> Fit:
        shape = self._shape
        longest = self._longest
        n_chunk = min(max(chunk, longest.n_labels), load.most_labels)
        of_rows = longest.n_bytes * max(1.0, n_chunk / max(1, longest.n_labels))
        logits = n_chunk * shape.n_vocabulary * (4 * _LOGIT_TENSORS + 2 * self._bytes * (self._bytes < 4))
        states = 3 * load.most_labels * shape.width * 4
        kept = load.largest * (cost.layer_bytes * shape.n_layers + cost.other_bytes)
        kept += self._scores(cost, load) * (1 if recompute else shape.n_layers)
        parts = {
            **self._held,
            "weights": self._weights() / _MIB,
            "adapter": shape.n_adapter * _ADAPTER_BYTES / _MIB,
            "activations": kept * _SLACK / _MIB,
            "logits": (logits + states + of_rows) / _MIB,
        }
        parts |= self._other_models(parts["activations"] + parts["logits"])
        per_token = cost.layer_seconds * shape.n_layers + cost.other_seconds
        n_computed, n_labels = load.n_computed + load.n_general, n_labels + load.n_general
        seconds = n_computed * per_token + n_labels * self._head
        forward = per_token * cost.forward_share
        return Fit(tokens, pairs, chunk, recompute, parts, seconds, forward, load, self._limit)

    def _weights(self) -> float:
        """Return the bytes of the base that this process holds; 4 bits are those of layers alone."""
        n_rest = self._shape.n_base - self._shape.n_in_layers
        return self._n_in_layers() * self._layer_bytes + n_rest * self._bytes

    def _n_in_layers(self) -> float:
        """Return the parameters in layers that this process holds: under `fsdp` one layer is whole."""
        shape = self._shape
        if self._job.settings.sharding == "none":
            return shape.n_in_layers
        n_split = shape.n_in_layers * (1 - 1 / self._processes)
        return shape.n_in_layers - n_split + n_split / shape.n_layers

    def _other_models(self, free: float) -> dict[str, float]:
        """Return the MiB of what else is loaded; what is let go again takes what is `free` until then."""
        throughout, at_first = (
            n * self._bytes / _MIB for n in (self._others.throughout, self._others.at_first)
        )
        whole_base = (self._shape.n_in_layers - self._n_in_layers()) * self._layer_bytes / _MIB
        at_first = max(0.0, max(at_first, whole_base) - free)
        found = {"teacher": throughout, "models before the first step": at_first}
        return {name: size for name, size in found.items() if size}

    def _scores(self, cost: LayerCost, load: Load) -> float:
        """Return the bytes of a layer's attention scores beyond those of the probe, whose rows are short."""
        if self._device.startswith("cuda") or load.most_pairs > MAX_KEPT:
            return 0.0  # scores are not kept there
        pairs = max(0.0, load.most_pairs - cost.n_pairs * load.largest)
        return pairs * self._shape.n_heads * self._bytes
