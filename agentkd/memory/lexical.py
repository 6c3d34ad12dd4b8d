"""Search by words: BM25 (Robertson and Zaragoza 2009) over what memories say, beside search by meaning.

A projection of the ledger like the vector index, on tantivy. It lives in a folder that one process owns;
every other process fills one of its own in memory. Every word is stored under its partition,
so that a query cannot reach into a partition that it does not name, and how rare a word is depends only
on the memories that the asker sees.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import threading
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from agentkd.errors import AgentkdError, LockedError, MissingExtraError, StoreError
from agentkd.files import write_whole
from agentkd.memory.lock import IndexLock

__all__ = ["LexicalIndex", "WordHit"]

_VERSION = "3"  # of fields and analysis: another one makes a new index
_HEAP = 15_000_000  # bytes of the writer's buffer
_FEW = 512  # memories up to which the index is written anew where one was replaced or removed
_LONGEST = 40  # letters; longer words are keys and hashes
_MOST_TERMS = 48  # of one query: the rarest words of a long state
_MOST_POSTINGS = 50_000  # documents that its words are looked up in, summed: the commonest words only rank
_SATURATION = 1.2  # BM25's k1
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_MARKER = ""  # the word that every document of a partition has


class WordHit(NamedTuple):
    """A memory that shares words with a query."""

    memory_id: str
    """Id of the memory."""
    score: float
    """BM25 over the summed rarity of the query's words: 1 is a short text that holds each of them once."""


class LexicalIndex:
    """An inverted index in a folder of its own; safe for the threads of one process."""

    def __init__(self, folder: Path | None = None) -> None:
        """Note the folder; it is opened by the first use.

        Args:
            folder: Where the index persists. None, and a folder that another process owns, make a
                one in memory that is filled anew.
        """
        self._wanted = folder
        self._guard = threading.RLock()
        self._lock: IndexLock | None = None
        self._opened: _Opened | None = None
        self._pid = os.getpid()
        self._is_closed = False

    @property
    def identity(self) -> str:
        """Token of what is stored: lost with the folder, renewed by `clear`; empty where nothing lasts."""
        return self._open().identity

    def change(self, rows: Iterable[tuple[str, str, str]], gone: Iterable[str] = ()) -> None:
        """Insert or replace memories given as (memory id, partition, text), and remove others; at once.

        What is among both stays, with its new text.
        What says the same as before is left alone: what is replaced counts in the statistics of words until
        its segment is merged, and two indexes over the same memories would rank near equals differently.
        """
        batch = list({row[0]: row for row in rows}.values())
        lost = [*{*gone} - {memory_id for memory_id, _, _ in batch}]
        if not batch and not lost:
            return
        with self._guard, _translated():
            opened = self._open()
            opened.follow()
            said = {memory_id: [_MARKER, *opened.words(text)] for memory_id, _, text in batch}
            new = [row for row in batch if not opened.holds(row[0], row[1], said[row[0]])]
            there = [id_ for id_ in (*lost, *(row[0] for row in new)) if opened.knows(id_)]
            try:
                for memory_id in there:
                    opened.remove(memory_id)
                for memory_id, partition, _ in new:
                    opened.put(memory_id, said[memory_id], partition)
                if there or new:
                    opened.publish()
                if there:
                    opened.settle()
            except BaseException:
                opened.close()  # a writer that failed once fails for good; the next change begins another
                raise

    def search(self, text: str, k: int, partitions: Sequence[str]) -> list[WordHit]:
        """Return at most `k` memories of these partitions that share words with a text, best first."""
        opened = self._open()
        with _translated():
            hits = opened.search(list(dict.fromkeys(opened.words(text))), k, partitions)
        hits.sort(key=lambda hit: (-hit.score, hit.memory_id))
        return hits

    def count(self) -> int:
        """Return the number of memories."""
        with _translated():
            return int(self._open().index.searcher().num_docs)

    def stored(self) -> set[str]:
        """Return the ids of all memories in it: what a check compares with the ledger."""
        with _translated():
            opened = self._open()
            searcher = opened.index.searcher()
            found = searcher.search(_tantivy().Query.all_query(), max(1, searcher.num_docs), count=False)
            return {searcher.doc(at)["memory"][0] for _, at in found.hits}

    def clear(self) -> None:
        """Remove everything and take a new identity, so that the next projection begins anew."""
        with self._guard, _translated():
            opened = self._open()
            folder = opened.folder
            opened.close()
            self._opened = None
            if folder is not None:
                shutil.rmtree(folder)
            self._opened = _Opened(folder)

    def close(self) -> None:
        """Release files and lock; safe to call twice."""
        with self._guard:
            self._is_closed = True
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()
            if self._lock is not None:
                self._lock.release()

    def _open(self) -> _Opened:
        if os.getpid() != self._pid:  # the writer's threads stayed in the parent
            raise LockedError(
                f"the index of words belongs to process {self._pid}, this is its child",
                hint="open the workspace after the fork, or start a new process",
                owner=self._pid,
            )
        if self._opened is not None:
            return self._opened
        with self._guard, _translated():
            if self._is_closed:
                raise StoreError("the index of words is closed", hint="open the workspace again")
            if self._opened is None:
                self._opened = _Opened(self._folder())
            return self._opened

    def _folder(self) -> Path | None:
        if self._wanted is not None:
            try:
                self._lock = IndexLock(self._wanted / ".lock")
                return self._wanted / "tantivy"
            except LockedError:  # its owner follows the ledger at its own pace: we keep a copy of our own
                pass
        return None


class _Opened:
    """One tantivy index: fields, analysis, writer, searches."""

    def __init__(self, folder: Path | None) -> None:
        tantivy = _tantivy()
        self.folder = folder
        self._tantivy = tantivy
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("memory", stored=True, tokenizer_name="raw", index_option="basic")
        builder.add_text_field("words", tokenizer_name="whitespace", index_option="freq")
        builder.add_bytes_field("said", stored=True, indexed=False)
        builder.add_bytes_field("partition", stored=True, indexed=False)
        self._schema = builder.build()
        self._analyzer = (
            tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
            .filter(tantivy.Filter.remove_long(_LONGEST))
            .filter(tantivy.Filter.lowercase())
            .filter(tantivy.Filter.ascii_fold())
            .filter(tantivy.Filter.stemmer("english"))
            .build()
        )
        self.identity, self.index = self._load()
        self._writer: Any = None

    def words(self, text: str) -> list[str]:
        """Return the stems of a text's words; `get_order` and `getOrder` are two words, as in prose."""
        plain = unicodedata.normalize("NFKC", text).encode("utf-8", "replace").decode()
        found: list[str] = self._analyzer.analyze(_parted(plain))
        return found

    def follow(self) -> None:
        """See all that was written: a change may have failed after it was on disk."""
        if self._writer is None:
            self.index.reload()

    def knows(self, memory_id: str) -> bool:
        """Whether a memory is or was there."""
        return bool(self.index.searcher().doc_freq("memory", memory_id))

    def holds(self, memory_id: str, partition: str, said: Sequence[str]) -> bool:
        """Whether a memory is there with these words, in this partition."""
        searcher, first = self.index.searcher(), f"{partition}:{said[0]}"
        if not self.knows(memory_id) or not searcher.doc_freq("words", first):
            return False
        both = [
            (self._tantivy.Occur.Must, self._tantivy.Query.term_query(self._schema, field, value))
            for field, value in (("memory", memory_id), ("words", first))
        ]
        found = searcher.search(self._tantivy.Query.boolean_query(both), 1, count=False).hits
        return any(searcher.doc(at)["said"][0].decode() == " ".join(said) for _, at in found)

    def remove(self, memory_id: str) -> None:
        self._writing().delete_documents_by_term("memory", memory_id)

    def put(self, memory_id: str, words: Iterable[str], partition: str) -> None:
        document = self._tantivy.Document()
        document.add_text("memory", memory_id)
        said = list(words)
        document.add_text("words", f"{partition}:" + f" {partition}:".join(said))
        document.add_bytes("said", " ".join(said).encode())
        document.add_bytes("partition", partition.encode())
        self._writing().add_document(document)

    def publish(self) -> None:
        self._writing().commit()
        self.index.reload()

    def settle(self) -> None:
        """Write a small index anew where something was taken out of it.

        What is gone counts in tantivy's statistics until its segment is merged. Among few memories that moves
        scores by more than equals differ, and each process would rank by the history of its own index.
        """
        searcher = self.index.searcher()
        n = searcher.num_docs
        if n > _FEW:
            return
        every = searcher.search(self._tantivy.Query.all_query(), max(1, n), count=False).hits
        documents = [searcher.doc(at) for _, at in every]
        partitions = {document["partition"][0] for document in documents}
        if sum(searcher.doc_freq("words", f"{p.decode()}:{_MARKER}") for p in partitions) == n:
            return
        self._writing().delete_all_documents()
        for document in documents:
            said, partition = document["said"][0].decode().split(" "), document["partition"][0].decode()
            self.put(document["memory"][0], said, partition)
        self.publish()

    def search(self, words: Sequence[str], k: int, partitions: Sequence[str]) -> list[WordHit]:
        searcher = self.index.searcher()
        sizes = {p: searcher.doc_freq("words", f"{p}:{_MARKER}") for p in partitions}
        sizes = {partition: n for partition, n in sizes.items() if n}
        if not sizes or not words or k < 1:
            return []
        n_all = searcher.num_docs
        counts = {word: {p: searcher.doc_freq("words", f"{p}:{word}") for p in sizes} for word in words}
        rarity = {word: _rarity(sum(counts[word].values()), sum(sizes.values())) for word in words}
        clauses = []
        telling = _telling(words, rarity, {word: sum(counts[word].values()) for word in words})
        for word in telling:
            for partition, n in counts[word].items():
                if n:
                    # tantivy weighs a term by how rare it is among all documents, whoever sees them
                    weight = rarity[word] / _rarity(n, n_all)
                    clauses.append(self._clause(f"{partition}:{word}", weight))
        if not clauses:
            return []
        query = self._tantivy.Query.boolean_query(clauses)
        found = searcher.search(query, k, count=False).hits
        mass, common = sum(rarity.values()), {*words} - {*telling}
        hits = []
        for score, at in found:
            document = searcher.doc(at)
            if common:
                score += _weight(common, document["said"][0].decode().split(" "), rarity)
            hits.append(WordHit(document["memory"][0], round(score / mass, 6)))
        return hits

    def _clause(self, term: str, weight: float) -> Any:
        query = self._tantivy.Query
        return (
            self._tantivy.Occur.Should,
            query.boost_query(query.term_query(self._schema, "words", term, "freq"), weight),
        )

    def close(self) -> None:
        """Stop writing; what was published stays, and what could not be merged is merged another time."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(StoreError), _translated():
                writer.wait_merging_threads()

    def _writing(self) -> Any:
        if self._writer is None:
            self._writer = self.index.writer(_HEAP, 1)
        return self._writer

    def _load(self) -> tuple[str, Any]:
        """Open what the folder holds; what is damaged or was analysed otherwise is thrown away."""
        if self.folder is None:
            return "", self._tantivy.Index(self._schema)
        note = self.folder / "identity"
        try:
            version, identity = note.read_text(encoding="utf-8").split()
            if version == _VERSION:
                return identity, self._tantivy.Index(self._schema, path=str(self.folder), reuse=True)
        except (OSError, ValueError):  # tantivy raises ValueError for whatever it cannot read
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        identity = uuid.uuid4().hex
        index = self._tantivy.Index(self._schema, path=str(self.folder), reuse=False)
        write_whole(note, f"{_VERSION} {identity}", lasting=False)  # last: without it all is made anew
        return identity, index


def _telling(words: Iterable[str], rarity: Mapping[str, float], n: Mapping[str, int]) -> list[str]:
    """Return the rarest words of a query: as many as are looked up quickly, however large the index is."""
    chosen: list[str] = []
    read = 0
    for word in sorted(words, key=lambda word: -rarity[word])[:_MOST_TERMS]:
        read += n[word]
        if chosen and read > _MOST_POSTINGS:
            break
        chosen.append(word)
    return chosen


def _weight(common: AbstractSet[str], said: Sequence[str], rarity: Mapping[str, float]) -> float:
    """Return what words that were not looked up add to a text: BM25 of a text of mean length."""
    n = Counter([word for word in said if word in common])
    return sum(rarity[word] * f * (_SATURATION + 1.0) / (f + _SATURATION) for word, f in n.items())


def _rarity(n: int, n_all: int) -> float:
    """Return the inverse document frequency of a word that `n` of `n_all` documents hold."""
    return math.log(1.0 + (max(n_all, n) - n + 0.5) / (n + 0.5))


def _parted(text: str) -> str:
    """Part camelCase; what is not a letter or a digit parts words anyway."""
    if text.islower():
        return text
    if text.isascii():
        return _CAMEL.sub(" ", text)
    return "".join(
        f" {letter}" if letter.isupper() and at and text[at - 1].islower() else letter
        for at, letter in enumerate(text)
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # tantivy raises these two, and over a damaged file a panic of Rust, which is no `Exception`
        is_its_own = isinstance(error, (OSError, ValueError)) or type(error).__name__ == "PanicException"
        if isinstance(error, AgentkdError) or not is_its_own:
            raise
        raise StoreError(
            f"the index of words refused: {str(error).partition(chr(10))[0]}",
            hint="free some space, or delete the folder `index/words`: it is rebuilt from the ledger",
        ) from error


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError as error:
        raise MissingExtraError.of("tantivy", "all", "search by words (`[memory] hybrid`)") from error
    return tantivy
