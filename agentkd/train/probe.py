"""What a token costs on this machine: two small models of the base's shape are run, and the rest follows.

Decoder layers are alike, so the difference between a model of two layers and one of one layer is the cost of
a layer: bytes that live at one time (every tensor that torch makes is counted, forward and backward) and
seconds. The weights are random and the vocabulary small; nothing of the base is read but its configuration.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentkd.schema import LoraSettings
from agentkd.train.body import Body
from agentkd.train.lora import add_adapter
from agentkd.train.model import recompute_activations
from agentkd.train.packing import Pack, make_packs
from agentkd.train.rows import View

__all__ = ["LayerCost", "Living", "head_seconds", "probe_layers"]

_VOCABULARY = 512
_LABELS = 64
_HEAD_VOCABULARY = 16384
_TRIES = 3


@dataclass(frozen=True)
class LayerCost:
    """What one decoder layer, and all that is not one, take for a token of a pack."""

    layer_bytes: float
    """Bytes that a layer keeps for the backward pass."""
    other_bytes: float
    """Bytes of embeddings, norms and the work of one layer at a time."""
    layer_seconds: float
    """Forward and backward of a layer."""
    other_seconds: float
    """Forward and backward of the rest, without the head."""
    forward_share: float
    """Share of the seconds that the forward pass alone takes."""
    n_pairs: float = 0.0
    """Query-key pairs whose scores are among the bytes of a layer."""


def probe_layers(
    config: Any,
    lora: LoraSettings,
    views: Sequence[View],
    *,
    device: str,
    dtype: str,
    recompute: bool,
    is_fused: bool = True,
) -> LayerCost:
    """Run one and two layers forward and backward on the views in one pack; return the cost per token.

    Without `is_fused` the adapter computes by peft's own forward, as on a quantised base.
    """
    packed = [_folded(view) for view in views]
    pack = next(iter(make_packs(packed, 1 << 30, 1 << 62)))
    found = []
    for n_layers in (1, 2):
        body = _small_body(config, n_layers, lora, packed, device, dtype, is_fused)
        if recompute:
            recompute_activations(body.model)
        found.append(_run(body, pack))
    (bytes_1, seconds_1, _), (bytes_2, seconds_2, forward_2) = found
    n = len(pack.tokens)
    layer_bytes, layer_seconds = max(0.0, bytes_2 - bytes_1), max(1e-9, seconds_2 - seconds_1)
    return LayerCost(
        layer_bytes=layer_bytes / n,
        other_bytes=max(0.0, bytes_1 - layer_bytes) / n,
        layer_seconds=layer_seconds / n,
        other_seconds=max(0.0, seconds_1 - layer_seconds) / n,
        forward_share=forward_2 / seconds_2,
        n_pairs=pack.n_pairs / n,
    )


def head_seconds(width: int, n_vocabulary: int, *, device: str, dtype: str) -> float:
    """Return the seconds that the head and a cross-entropy take per label, forward and backward."""
    n = min(n_vocabulary, _HEAD_VOCABULARY)
    kind = getattr(torch, dtype)
    weight = torch.full((n, width), 0.01, dtype=kind, device=device)
    states = torch.ones(_LABELS, width, dtype=kind, device=device, requires_grad=True)
    targets = torch.zeros(_LABELS, dtype=torch.int64, device=device)
    best = float("inf")
    for _ in range(_TRIES):
        begun = _now(device)
        logits = torch.nn.functional.linear(states, weight).float()
        torch.nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        best = min(best, _now(device) - begun)
    return best / _LABELS * n_vocabulary / n


def _folded(view: View) -> View:
    return View(tuple(token % _VOCABULARY for token in view.ids), view.labels, view.weights)


def _small_body(
    config: Any,
    n_layers: int,
    lora: LoraSettings,
    views: Sequence[View],
    device: str,
    dtype: str,
    is_fused: bool,
) -> Body:
    import copy

    import transformers

    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers, text.vocab_size = n_layers, _VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:n_layers]
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCausalLM.from_config(small, dtype=getattr(torch, dtype))
    model = model.to(device).eval().requires_grad_(False)
    rank = 2 * lora.r if lora.init == "pissa" else lora.r  # its start is computed beside it
    targets = lora.target_modules
    if not isinstance(targets, str):  # of every layer: those that the names count may not be here
        targets = tuple(sorted({name.rpartition(".")[2] for name in targets}))
    wanted = lora.model_copy(update={"r": rank, "init": "kaiming", "target_modules": targets})
    body = Body(add_adapter(model, wanted, init_adapter="", seed=0, is_fused=is_fused))
    short = sorted(views, key=lambda view: view.n_tokens)[:2]
    body.pack_for_training(short)
    return body


def _run(body: Body, pack: Pack) -> tuple[float, float, float]:
    """Return (most bytes alive, seconds, seconds of the forward pass alone) of a pack."""
    device = body.device.type
    with Living() as living:
        body.hidden(pack).square().mean().backward()  # type: ignore[no-untyped-call]
    best = forward = float("inf")
    for _ in range(_TRIES):
        begun = _now(device)
        loss = body.hidden(pack).square().mean()
        middle = _now(device)
        loss.backward()  # type: ignore[no-untyped-call]
        best, forward = min(best, _now(device) - begun), min(forward, middle - begun)
    gradients = sum(p.numel() * 4 for p in body.model.parameters() if p.requires_grad)
    return float(living.most - gradients), best, forward


def _now(device: str) -> float:
    """Return a clock: on a CPU that of an idle machine, processor time over all threads."""
    if not device.startswith("cuda"):
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize()
    return time.perf_counter()


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that were made since and are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if _is_tensor(leaf) and id(leaf.untyped_storage()) not in before:
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
