"""What `memory audit` finds in ReMe's public libraries, and how long it takes per thousand memories.

python benchmarks/audit.py            # all libraries, and 10,000 memories for the time
python benchmarks/audit.py --small    # all libraries, and 2,000 memories for the time

The duplicate rates are properties of the published files under the default embedder: they have no bar. The
similarity is that of situation and text together, the first memory of a group is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import Row, publish
from numpy.typing import NDArray

from agentkd.interop import Imported, read_reme
from agentkd.memory import Audit, look_over
from agentkd.memory.audit import duplicate_rates
from agentkd.protocols import Embedder
from agentkd.schema import Memory
from agentkd.workspace import Workspace

COPY, RELATED, REME = 0.92, 0.8, 0.5
DATA = Path(os.environ.get("AGENTKD_DATA") or Path(__file__).parents[2] / "shared" / "data")


class Random:
    """An embedder that costs nothing, to time what the audit itself does."""

    fingerprint = "random"
    dimensions = 384

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Return unit vectors of no meaning."""
        vectors = self._random.standard_normal((len(texts), self.dimensions)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Kept:
    """Keeps the vectors of one library, as the embedder's cache on disk does."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._kept: dict[str, NDArray[np.float32]] = {}
        self.fingerprint, self.dimensions = embedder.fingerprint, embedder.dimensions

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Return unit vectors, computing those of new texts only."""
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if new:
            self._kept.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._kept[text] for text in texts])


def audited(
    memories: tuple[Memory, ...], embedder: Embedder, *, counts_use: bool = True
) -> tuple[Audit, float]:
    """Return the audit and its seconds."""
    started = time.perf_counter()
    found = look_over(memories, embedder, merge_above=COPY, counts_use=counts_use)
    return found, time.perf_counter() - started


def rows_of(imported: Imported, embedder: Embedder) -> list[Row]:
    """Return the rows of one library: rates of copies, then seconds with a warm and a cold embedder."""
    name = Path(imported.path).stem
    cold_seconds = audited(imported.memories, embedder)[1]
    found, warm_seconds = audited(imported.memories, embedder, counts_use=imported.counts_use)
    n = found.n
    rates = {rate.threshold: rate.rate for rate in found.duplicates}
    [own] = duplicate_rates(imported.memories, embedder, [REME])
    rows = [
        Row(f"{name}: exact copies", found.exact_rate, n=n),
        Row(f"{name}: near copies at {COPY}", rates[COPY], n=n),
        Row(f"{name}: near copies at {RELATED}", rates[RELATED], n=n),
        Row(f"{name}: near copies at {REME}, ReMe's default", own.rate, n=n),
        Row(f"{name}: secrets, loops and junk", _signs(found), n=n),
        Row(f"{name}: seconds per 1,000 with embedding", 1000 * cold_seconds / n, n=n),
        Row(f"{name}: seconds per 1,000 from the cache", 1000 * warm_seconds / n, n=n),
    ]
    if imported.counts_use:
        rows.append(Row(f"{name}: share never recalled", len(found.never_recalled) / n, n=n))
    return rows


def _signs(found: Audit) -> int:
    return len(found.secrets) + len(found.quotes) + len(found.echoes) + sum(map(len, found.junk.values()))


def timed(n: int) -> Row:
    """Return the audit's own seconds per 1,000 of `n` distinct memories."""
    memories = tuple(
        Memory(
            id=f"mem-{i}", kind="insight", when_to_use=f"situation {i} of many", content=f"Do step {i} first."
        )
        for i in range(n)
    )
    return Row(
        f"seconds per 1,000 of {n:,} memories without embedding",
        1000 * audited(memories, Random())[1] / n,
        n=n,
    )


def main() -> int:
    """Audit every library and publish the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer memories for the time")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with `reme-library`")
    options = parser.parse_args()
    files = sorted((options.data / "reme-library").glob("*.jsonl"))
    if not files:
        print(f"no library below {options.data}: pass --data or set AGENTKD_DATA", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, Workspace(folder) as workspace:
        # No cache across runs, so that the seconds with embedding are those of a first audit.
        embedder = workspace.parts.build("embedder", "minilm-onnx", max_cached=0)
        embedder.embed(["load the model"])
        for file in files:
            rows += rows_of(read_reme(file), Kept(embedder))
    rows.append(timed(2_000 if options.small else 10_000))
    return publish("audit", rows, {"embedder": "minilm-onnx", "libraries": [file.name for file in files]})


if __name__ == "__main__":
    sys.exit(main())
