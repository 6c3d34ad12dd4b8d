"""Texts and vectors for the memory benchmarks: real requests and lessons, varied to any number.

Random vectors would flatter nobody: in 384 dimensions they are all equally far apart. So real sentences
(requests and tool descriptions of the Berkeley data outside its live categories; lessons, tasks and dialogues
of the data folder where it is there) are put into other circumstances until there are enough, and embedded
once per machine by the default embedder.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import WORK

from agentkd.models.source import default_cache_dir, fetch

SEED = 3
N_QUERIES = 300
SOURCE = "wheel:bfcl-eval==2026.3.23"
_CUSTOMERS = (
    "a student", "a nurse", "a farmer", "a trader", "a pilot", "a teacher", "an analyst", "a tourist",
    "a lawyer", "a manager", "a retired engineer", "a shop owner", "a journalist", "a musician", "a driver",
    "a researcher",
)  # fmt: skip
_MOMENTS = (
    "before a deadline", "on a Monday morning", "after a failed attempt", "during an outage", "in a hurry",
    "while travelling", "without a login", "at the end of the month", "with little budget",
    "for a whole team", "over the phone", "for the second time", "on an old device",
    "after a change of address",
    "in another language",
)  # fmt: skip
_TURNS = (
    "{text} ({who}, {when})", "When {who} asks {when}: {text}", "{when}, {who} wants this: {text}",
    "{text} It is {who} who asks, {when}.", "{who} {when}. {text}",
)  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Distinct texts with their vectors, and questions that are none of them."""

    texts: list[str]
    vectors: np.ndarray
    queries: list[str]
    query_vectors: np.ndarray
    facts: dict[str, Any]


def corpus(n: int, data: Path | None = None) -> Corpus:
    """Return `n` texts and `N_QUERIES` questions with unit vectors; both are kept on disk."""
    folder = WORK / "memory-corpus"
    folder.mkdir(parents=True, exist_ok=True)
    real = real_sentences(data)
    queries, texts = vary(real, N_QUERIES, n)
    file = folder / f"{n}-{len(real)}.npz"
    facts: dict[str, Any] = {"real_sentences": len(real), "seed": SEED, "texts": n, "queries": len(queries)}
    if not file.is_file():
        begun = time.monotonic()
        made = embed([*queries, *texts])
        facts["texts_embedded_per_second"] = round((n + len(queries)) / (time.monotonic() - begun), 1)
        with file.with_suffix(".aside").open("wb") as opened:
            np.savez(opened, vectors=made)
        os.replace(file.with_suffix(".aside"), file)
    vectors = np.load(file)["vectors"]
    return Corpus(texts, vectors[len(queries) :], queries, vectors[: len(queries)], facts)


def grown(base: Corpus, n: int) -> Corpus:
    """Return `n` texts, those past the base's own being one of them that ends with the start of another.

    To embed a million takes hours. The vector of a grown text lies between those of the two, three parts of
    the first: a cosine of 0.95, where a sentence and its nearest variant have 0.88. Questions stay.
    """
    dice, own = np.random.default_rng(SEED), len(base.texts)
    first, second = dice.integers(0, own, (2, max(0, n - own)))
    made = 3 * base.vectors[first] + base.vectors[second]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    texts = [
        f"{base.texts[a]} {' '.join(base.texts[b].split()[:8])} ({at})"
        for at, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
    ]
    facts = {**base.facts, "texts": n, "grown": len(texts)}
    vectors = np.concatenate([base.vectors, made])[:n]
    return Corpus([*base.texts, *texts][:n], vectors, base.queries, base.query_vectors, facts)


def embed(texts: list[str]) -> np.ndarray:
    """Embed texts with the default embedder, past its cache."""
    return minilm().embed(texts)


def minilm() -> Any:
    """Return the default embedder without a cache."""
    from agentkd.embedders.minilm import MiniLmSettings, build

    class Kit:
        cache_dir = default_cache_dir()
        progress = None

        def fetch(self, source: str, sha256: str | None = None) -> Path:
            return fetch(source, cache_dir=self.cache_dir, sha256=sha256)

    return build(MiniLmSettings(max_cached=0), Kit())  # type: ignore[arg-type]


def vary(real: list[str], n_queries: int, n: int) -> tuple[list[str], list[str]]:
    """Return questions and texts: every real sentence, then its variants, no text twice."""
    dice = random.Random(SEED)
    seen: set[str] = set()

    def fresh() -> Iterator[str]:
        yield from real
        while True:
            turn, text = dice.choice(_TURNS), dice.choice(real)
            yield turn.format(
                text=_renumbered(text, dice), who=dice.choice(_CUSTOMERS), when=dice.choice(_MOMENTS)
            )

    texts: list[str] = []
    for text in fresh():
        if text not in seen:
            seen.add(text)
            texts.append(text)
        if len(texts) >= n + n_queries:
            break
    dice.shuffle(texts)
    return texts[:n_queries], texts[n_queries:]


def _renumbered(text: str, dice: random.Random) -> str:
    return re.sub(r"\b\d{1,4}\b", lambda found: str(dice.randint(1, 10 ** len(found[0]))), text)


def real_sentences(data: Path | None = None) -> list[str]:
    """Return the distinct sentences of 20 to 300 characters, in a fixed order."""
    rows = fetch(SOURCE, cache_dir=default_cache_dir()) / "bfcl_eval" / "data"
    files = [path for path in sorted(rows.glob("BFCL_v4_*.json")) if not re.search("live|format", path.name)]
    found = dict.fromkeys(sentence for path in files for sentence in _bfcl(path))
    folder = data or Path(os.environ.get("AGENTKD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    for path in sorted(
        [*folder.glob("reme-library/*.jsonl"), *folder.glob("llb/*.json"), *folder.glob("tau/*.json")]
    ):
        found.update(dict.fromkeys(_texts(path)))
    return [text for text in found if 20 <= len(text) <= 300]


def _bfcl(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for turn in row.get("question", ()):
            for message in turn if isinstance(turn, list) else [turn]:
                if isinstance(message, dict) and message.get("role") == "user":
                    yield from _sentences(message["content"])
        for function in row.get("function", ()):
            yield from _sentences(function.get("description", ""))


def _texts(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        for line in text.splitlines():
            row = json.loads(line)
            for part in (row.get("when_to_use"), row.get("content")):
                yield from _sentences(part if isinstance(part, str) else "")
        return
    rows = json.loads(text)
    for row in rows.values() if isinstance(rows, dict) else rows:
        yield from _sentences(row.get("instruction", ""))
        for message in row.get("traj", ()):
            if message.get("role") in ("user", "assistant"):
                yield from _sentences(message.get("content") or "")


def _sentences(text: str) -> Iterator[str]:
    for part in re.split(r"(?<=[.!?])\s+|\n+", text):
        yield " ".join(part.split())
