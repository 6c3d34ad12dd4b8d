"""A batched forward pass for llama-type models, several times faster on a CPU than module by module.

What it does otherwise: tokens of all rows lie flat in one `[n, hidden]` matrix, so nothing is padded; the
projections q, k, v and gate, up are one matrix each; keys and values are written in place; a head that rows
share is attended to once for all of them and merged by log-sum-exp; adapters are two thin matrices per site.
A row's result does not depend on which other rows are computed with it (as far as the matrix kernels keep to
that, which those of bfloat16 on x86 do), so a run can be repeated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from agentkd.errors import CheckpointError, ModelError, NotFoundError
from agentkd.hf import Adapter, read_adapter
from agentkd.models.attention import Plan, Rows, attend
from agentkd.models.network import Head, Piece

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LlamaNetwork"]

_CHUNK_TOKENS = 512  # activations of this many tokens stay in the second-level cache
_MIN_MATRIX_ROWS = {torch.float32: 8, torch.bfloat16: 2}  # kernels for fewer rows add in another order

_SITES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class _Site:
    """One fused projection of one layer: weight `[out, in]`, bias, and the modules that it is made of."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    modules: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Layer:
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    sites: dict[str, _Site]


_Delta = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
_Low = list[dict[str, _Delta]]  # per layer and site: A `[ranks, in]`, scaled B `[out, ranks]`, DoRA's factors


class LlamaNetwork:
    """Runs llama, mistral and qwen2 models with full attention; see `Network` for the methods."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        body: Any = model.model
        self.n_positions = int(config.max_position_embeddings)
        self._n_heads, self._n_kv = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._head_size = int(getattr(config, "head_dim", None) or config.hidden_size // self._n_heads)
        self._epsilon = float(config.rms_norm_eps)
        self._embedding: torch.Tensor = body.embed_tokens.weight.detach()
        self._unembedding: torch.Tensor = model.get_output_embeddings().weight.detach()
        self._norm: torch.Tensor = body.norm.weight.detach()
        self.n_vocab = int(self._unembedding.shape[0])
        self._rotary = body.rotary_emb
        self._cos, self._sin = self._turns(min(self.n_positions, 2048))
        self._layers = [_fuse(body.layers[i], f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
        self._adapters: dict[str, _Low] = {}
        self._low: _Low | None = None
        self._rows = Rows(self)

    def twin(self) -> LlamaNetwork:
        """Return a network with rows of its own on the same weights and adapters, for another thread."""
        other = copy.copy(self)
        other._rows = Rows(other)
        return other

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Tell whether this class computes exactly what `model` does."""
        config = model.config
        is_windowed = bool(getattr(config, "use_sliding_window", config.model_type == "mistral"))
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            config.model_type in {"llama", "qwen2", "mistral"}
            and config.hidden_act == "silu"
            and not (is_windowed and getattr(config, "sliding_window", None))
            and rope.get("rope_type", "default") in {"default", "linear", "llama3", "yarn"}
            and not getattr(config, "mlp_bias", False)
        )

    def use_adapter(self, name: str | None, folder: Path | None = None) -> None:
        """Switch adapters; a new one is read, checked and fused on first use."""
        if name is None:
            self._low = None
            return
        if name not in self._adapters:
            if folder is None:
                raise NotFoundError(f"no adapter `{name}` is loaded")
            self._adapters[name] = self._fuse_adapter(read_adapter(folder))
        self._low = self._adapters[name]

    @torch.inference_mode()
    def head(self, ids: Sequence[int], after: Head | None = None) -> Head:
        """Compute a head in a row of its own and copy its keys and values out, `[layers, 2, kv, n, size]`."""
        start = len(after.ids) if after else 0
        row = self.open(after, len(ids) - start)
        try:
            self.extend([Piece(row, ids[start:], 1)])
            state = self._rows.copy_out(row)
        finally:
            self.close(row)
        if after:
            state = torch.cat([after.state, state], dim=3)
        return Head(tuple(ids), state)

    def open(self, head: Head | None, room: int) -> int:
        """Open a row; raises ModelError where it could not hold `room` tokens."""
        if (len(head.ids) if head else 0) + room > self.n_positions:
            raise ModelError(f"a row of {room} tokens does not fit the context of {self.n_positions}")
        return self._rows.open(head, room)

    def close(self, row: int) -> None:
        """Give a row back."""
        self._rows.close(row)

    @torch.inference_mode()
    def extend(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Append the pieces in chunks that fit the processor's cache; see `Network.extend`."""
        found: dict[tuple[int, int], torch.Tensor] = {}
        for chunk in _chunks(pieces):
            parts = [piece for _, piece in chunk]
            plan = self._rows.plan(parts, self._n_heads // self._n_kv)
            logits = self._forward(torch.tensor([i for p in parts for i in p.ids], device=self.device), plan)
            blocks = torch.split(logits, list(plan.n_logits))
            for (order, _), block in zip(chunk, blocks, strict=True):
                found[order, len(found)] = block
            self._rows.advance(parts)
        return torch.cat([found[key] for key in sorted(found)])

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._embedding.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, key-value heads and head size."""
        return len(self._layers), self._n_kv, self._head_size

    def _forward(self, ids: torch.Tensor, plan: Plan) -> torch.Tensor:
        n, n_heads, size = len(ids), self._n_heads, self._head_size
        cos, sin = self._angles(plan.positions)
        x = F.embedding(ids, self._embedding)
        for index, layer in enumerate(self._layers):
            h = F.rms_norm(x, x.shape[-1:], layer.attention_norm, self._epsilon)
            qkv = self._linear(h, index, "qkv").view(n, n_heads + 2 * self._n_kv, size)
            turned = _turn(qkv[:, : n_heads + self._n_kv], cos, sin)
            plan.store(index, turned[:, n_heads:], qkv[:, n_heads + self._n_kv :])
            mixed = attend(turned[:, :n_heads].reshape(n, self._n_kv, -1, size), plan, index)
            x = x + self._linear(mixed.reshape(n, -1), index, "out")
            h = F.rms_norm(x, x.shape[-1:], layer.mlp_norm, self._epsilon)
            gate, up = self._linear(h, index, "gate_up").chunk(2, dim=-1)
            x = x + self._linear(F.silu(gate).mul_(up), index, "down")
        x = F.rms_norm(x[plan.wanted], x.shape[-1:], self._norm, self._epsilon)
        return _matrix(x, self._unembedding).float()

    def _linear(self, x: torch.Tensor, index: int, site: str) -> torch.Tensor:
        fused = self._layers[index].sites[site]
        delta = self._low[index].get(site) if self._low else None
        if delta is None:
            return _matrix(x, fused.weight, fused.bias)
        a, b, factors = delta
        if factors is None:
            return _matrix(x, fused.weight, fused.bias).add_(_matrix(_matrix(x, a), b))
        y = _matrix(x, fused.weight).add_(_matrix(_matrix(x, a), b)).mul_(factors)
        return y if fused.bias is None else y.add_(fused.bias)

    def _angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        longest = int(positions.max()) + 1
        if longest > len(self._cos):
            self._cos, self._sin = self._turns(min(self.n_positions, 2 * longest))
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    @torch.inference_mode()
    def _turns(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(n, device=self.device).unsqueeze(0)
        cos, sin = self._rotary(self._embedding[:1].unsqueeze(0), positions)
        half = self._head_size // 2  # both halves are the same
        return cos[0, :, :half].to(self.dtype).contiguous(), sin[0, :, :half].to(self.dtype).contiguous()

    def _fuse_adapter(self, adapter: Adapter) -> _Low:
        pairs = adapter.pairs()
        low: _Low = []
        for layer in self._layers:
            low.append({})
            for name, site in layer.sites.items():
                if delta := _fuse_pairs(site, pairs, adapter, self.dtype, self.device):
                    low[-1][name] = delta
        if pairs:
            raise CheckpointError(
                f"adapter `{adapter.folder}` changes `{next(iter(pairs))}`, which this base model lacks",
                hint="it was trained on another model",
                path=str(adapter.folder),
            )
        return low


def _matrix(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    n_missing = _MIN_MATRIX_ROWS.get(x.dtype, 1) - len(x)
    if n_missing <= 0:
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, n_missing)), weight, bias)[: len(x)]


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions to `[n, heads, size]` (half-split convention of llama)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _fuse(layer: Any, prefix: str) -> _Layer:
    sites = {}
    for name, modules in _SITES.items():
        parts = [layer.get_submodule(module) for module in modules]
        weight = torch.cat([part.weight.detach() for part in parts])
        has_bias = any(part.bias is not None for part in parts)
        biases = [p.bias.detach() if p.bias is not None else p.weight.new_zeros(len(p.weight)) for p in parts]
        sites[name] = _Site(
            weight,
            torch.cat(biases) if has_bias else None,
            tuple(prefix + module for module in modules),
            tuple(len(part.weight) for part in parts),
        )
        for part in parts:  # the fused copy replaces the originals
            part.weight = None
    return _Layer(
        layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach(), sites
    )


def _fuse_pairs(
    site: _Site,
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    adapter: Adapter,
    dtype: torch.dtype,
    device: torch.device,
) -> _Delta | None:
    """Stack the A of the site's modules and put their scaled B on a block diagonal; empties `pairs`."""
    a_parts, b_parts = [], []
    factors = []
    for module, size, rows in zip(
        site.modules, site.sizes, torch.split(site.weight, list(site.sizes)), strict=True
    ):
        pair = pairs.pop(module, None)
        if pair is None:
            b_parts.append(torch.zeros(size, 0))
            factors.append(torch.ones(size))
            continue
        a, b = pair
        if a.shape[1] != site.weight.shape[1] or b.shape[0] != size:
            raise CheckpointError(
                f"adapter `{adapter.folder}` does not fit this base model at `{module}`",
                hint="it was trained on another model",
                path=str(adapter.folder),
            )
        row_factors = adapter.row_factors(module, rows)
        factors.append(torch.ones(size) if row_factors is None else row_factors.cpu())
        a_parts.append(a.float())
        b_parts.append(b.float() * adapter.scale)
    if not a_parts:
        return None
    diagonal: torch.Tensor = torch.block_diag(*b_parts)  # type: ignore[no-untyped-call]
    lengths = torch.cat(factors).to(device, dtype) if adapter.has_magnitudes else None
    return torch.cat(a_parts).to(device, dtype), diagonal.to(device, dtype), lengths


def _chunks(pieces: Sequence[Piece]) -> Iterator[list[tuple[int, Piece]]]:
    """Yield pieces with their order, single tokens first; a very long piece comes in parts."""
    chunk: list[tuple[int, Piece]] = []
    n = 0
    for i, piece in sorted(enumerate(pieces), key=_is_longer):
        for part in _parts(piece):
            if chunk and n + len(part.ids) > _CHUNK_TOKENS:
                yield sorted(chunk, key=_is_longer)
                chunk, n = [], 0
            chunk.append((i, part))
            n += len(part.ids)
    if chunk:
        yield sorted(chunk, key=_is_longer)


def _is_longer(numbered: tuple[int, Piece]) -> bool:
    return len(numbered[1].ids) > 1


def _parts(piece: Piece) -> list[Piece]:
    cuts = range(0, len(piece.ids), _CHUNK_TOKENS)
    parts = []
    for start in cuts:
        stop = min(start + _CHUNK_TOKENS, len(piece.ids))
        first_wanted = len(piece.ids) - piece.n_logits
        parts.append(Piece(piece.row, piece.ids[start:stop], max(0, stop - max(start, first_wanted))))
    return parts
