"""What a remote teacher says, asked in the parent process before a training starts. No torch.

Two honest ways. A server of text completions that echoes its prompt scores the given targets, token by
token. A chat model cannot score a given text: it answers itself, and its own words become the targets, with
their log-probabilities where the provider sends them and as plain text where it does not.

Every answer is paid for once: it is one line of a log, on disk before the next call, and a killed run goes on
behind it. Signals and rows are made from the log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from agentkd import hf
from agentkd.errors import AgentkdError
from agentkd.protocols import Progress
from agentkd.schema import Example, Message, Rendered, Reply, Usage, Value, content_id
from agentkd.train.alignment import TokenBytes
from agentkd.train.artefact import RowSignals, Unit
from agentkd.train.rows import View

__all__ = [
    "Answers",
    "Said",
    "Vocabulary",
    "cost_text",
    "label_weight",
    "retold",
    "spelled",
    "unit_of",
    "with_end",
]


class Said(Value):
    """One answer of a remote teacher: a line of the log."""

    key: str
    """Key of the row's teacher view, or of the prompt where the teacher answers itself."""
    text: str
    """The text that was scored or said."""
    pieces: tuple[str, ...] = ()
    """Bytes of its tokens as Latin-1 text; empty where the provider sends no log-probabilities."""
    log_probs: tuple[float, ...] = ()
    """Their log-probabilities."""
    top: tuple[tuple[tuple[str, float], ...], ...] = ()
    """For each token its likeliest alternatives; empty where no token has any."""
    is_cut: bool = False
    """Whether it ended for want of room."""
    limit: int = 0
    """Tokens that it had room for; 0 where that is not known."""
    usage: Usage = Usage()
    """What it cost."""

    @property
    def tops(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """The alternatives of each piece; none where there are not as many lists as pieces."""
        n = len(self.pieces)
        return self.top if len(self.top) == n else ((),) * n


class Answers:
    """The log of one teacher, way of asking and student: `<folder>/<key>.jsonl`; for all datasets."""

    def __init__(self, file: Path, *, is_scored: bool = False, tried: set[str] | None = None) -> None:
        """Read what is there; a line that was cut off by a kill is dropped.

        Args:
            file: The log.
            is_scored: Whether an answer without log-probabilities is of no use.
            tried: Keys that this run asked already; more are added.
        """
        self.file = file
        self._is_scored = is_scored
        self._tried = set() if tried is None else tried
        self._lock = threading.Lock()
        self.found: dict[str, Said] = {}
        if file.is_file():
            for line in file.read_bytes().split(b"\n"):
                try:
                    said = Said.model_validate_json(line)
                except ValidationError:
                    continue
                self.found[said.key] = said

    def lacks(self, key: str, limit: int) -> bool:
        """Whether the key is to be asked.

        There is no answer, or it was cut off with room for fewer tokens than `limit`, or an earlier run got
        none of any use.
        """
        said = self.found.get(key)
        if said is None or said.is_cut:
            return said is None or said.limit < limit
        is_useless = not said.text.strip() or (self._is_scored and not said.pieces)
        return is_useless and key not in self._tried

    def ask(
        self,
        wanted: Mapping[str, Callable[[], Reply]],
        *,
        limit: int,
        workers: int,
        progress: Progress,
        label: str,
    ) -> int:
        """Ask for every key that the log lacks and return their number; the first error ends it."""
        missing = [key for key in wanted if self.lacks(key, limit)]
        if not missing:
            return 0
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with progress.bar(label, len(missing), "rows") as bar, ThreadPoolExecutor(workers) as pool:
            pending = {pool.submit(self._ask, key, wanted[key], limit): key for key in missing}
            spent = Usage(usd=0.0)
            try:
                for done in as_completed(pending):
                    done.result()
                    spent += self.found[pending[done]].usage
                    bar.advance(note=cost_text([spent]))
            except BaseException:
                for future in pending:
                    future.cancel()
                raise
        return len(missing)

    def _ask(self, key: str, ask: Callable[[], Reply], limit: int) -> None:
        reply = ask()
        trace = reply.tokens
        is_text = reply.finish_reason in ("stop", "length")  # no filter's refusal, no call in its place
        said = Said(
            key=key,
            text=reply.text if is_text else "",
            pieces=trace.pieces if trace else (),
            log_probs=trace.log_probs if trace else (),
            top=trace.top if trace else (),
            is_cut=reply.finish_reason == "length",
            limit=limit,
            usage=reply.usage,
        )
        with self._lock, open(self.file, "ab") as log:
            start = b"\n" if log.tell() else b""  # behind a line that was cut off
            log.write(start + said.model_dump_json().encode())
            log.flush()
            os.fsync(log.fileno())
            self.found[key] = said
            self._tried.add(key)


def cost_text(usages: Iterable[Usage]) -> str:
    """Return `1,234 tokens, $0.02`; money is left out where a price is unknown."""
    total = sum(usages, Usage(usd=0.0))
    tokens = f"{total.prompt_tokens + total.completion_tokens:,} tokens"
    return tokens if total.usd is None else f"{tokens}, ${total.usd:.4f}"


class Vocabulary:
    """The student's tokens by their bytes: what a provider's token texts are matched with."""

    def __init__(self, base: str | Path) -> None:
        """Read the tokenizer of a model folder."""
        self.tokenizer = hf.load_tokenizer(base)
        self.bytes_of = TokenBytes.of(self.tokenizer)
        self.ends = hf.end_ids(self.tokenizer)
        self.n_tokens = len(self.tokenizer)
        self._ids: dict[bytes, int] = {}
        for token in range(self.n_tokens):
            self._ids.setdefault(self.bytes_of(token), token)

    def piece(self, token: int) -> str:
        """Return the bytes of a token as Latin-1 text."""
        return self.bytes_of(token).decode("latin-1")

    def id_of(self, piece: str) -> int | None:
        """Return the token with these bytes; None where the student has none."""
        return self._ids.get(piece.encode("latin-1"))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones as they are written."""
        said = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(said)


def unit_of(pairs: Sequence[tuple[Said, View]], vocabulary: Vocabulary) -> Unit:
    """Return `token` where the teacher cuts most of the texts as the student does, else `byte`.

    It is `token` where no answer tells.
    """
    heard = [(said, view) for said, view in pairs if said.pieces]
    alike = sum(_is_alike(said, view, vocabulary) for said, view in heard)
    return "token" if 2 * alike > len(heard) or not heard else "byte"


def _is_alike(said: Said, view: View, vocabulary: Vocabulary) -> bool:
    """Whether the teacher's tokens are the row's labels."""
    return bool(said.pieces) and list(said.pieces) == [vocabulary.piece(view.ids[n]) for n in view.labels]


def with_end(said: Said, view: View, vocabulary: Vocabulary) -> Said:
    """Return a finished answer with the token that ends the turn.

    Chat models send none, or one without text. One that they leave out is certain: they did stop there.
    """
    last = view.ids[view.labels[-1]]
    is_whole = "".join(said.pieces).encode("latin-1") == said.text.encode()
    if said.is_cut or not said.pieces or not is_whole or last not in vocabulary.ends:
        return said
    end, pieces, top = vocabulary.piece(last), said.pieces, said.tops
    if pieces[-1]:
        pieces, top = (*pieces, ""), (*top, (("", 0.0),))
    named = tuple((piece or end, value) for piece, value in top[-1])
    return said.model_copy(
        update={
            "pieces": (*pieces[:-1], end),
            "log_probs": (*said.log_probs, 0.0)[: len(pieces)],
            "top": (*top[:-1], named),
        }
    )


def spelled(said: Said, view: View, text: str, unit: Unit, vocabulary: Vocabulary, top_k: int) -> RowSignals:
    """Return what was said as signals; of no tokens where it cannot be laid over the row.

    Args:
        said: The answer.
        view: The row as the student's tokenizer writes it.
        text: The target, without the token that ends the turn.
        unit: How all rows of the cache are aligned.
        vocabulary: The student's.
        top_k: Tokens kept per position; a position may have fewer.
    """
    if unit == "token":
        n = len(said.pieces) if _is_alike(said, view, vocabulary) else 0
        ends = list(range(1, n + 1))
    else:
        ends = _byte_ends(said, len(text.encode()), text)
        n = len(ends)
    row = RowSignals(
        ids=np.full((n, top_k), -1, np.int32),
        log_probs=np.full((n, top_k), -np.inf, np.float16),
        tail=np.ones(n, np.float16),
        chosen=np.asarray(said.log_probs[:n], np.float32),
        ends=np.asarray(ends, np.int32),
    )
    for place in range(n):
        top = sorted(said.tops[place], key=lambda pair: -pair[1])
        known = [(vocabulary.id_of(piece) if unit == "token" else -1, value) for piece, value in top]
        kept = [(token, value) for token, value in dict(_first(known)).items() if token is not None]
        kept = kept if unit == "token" else [(-1, value) for _, value in top]
        for rank, (token, value) in enumerate(kept[:top_k]):
            row.ids[place, rank], row.log_probs[place, rank] = token, value
        row.tail[place] = max(0.0, 1.0 - sum(float(np.exp(value)) for _, value in kept[:top_k]))
    return row


def _first(known: Sequence[tuple[int | None, float]]) -> Iterator[tuple[int | None, float]]:
    """Yield each token once, with its best log-probability (pairs come best first)."""
    seen: set[int | None] = set()
    for token, value in known:
        if token not in seen:
            seen.add(token)
            yield token, value


def _byte_ends(said: Said, n_bytes: int, text: str) -> list[int]:
    """Return the byte after each piece; the piece behind the text ends the turn. Empty where it says more."""
    whole = "".join(said.pieces).encode("latin-1")
    if not said.pieces or not whole.startswith(text.encode()):
        return []
    ends: list[int] = []
    at = 0
    for piece in said.pieces:
        at += len(piece)
        if at > n_bytes or not piece:
            is_end = bool(ends) and ends[-1] == n_bytes
            return [*ends, n_bytes + 1] if is_end else []
        ends.append(at)
    return ends


def retold(
    examples: Sequence[Example],
    answers: Mapping[str, Said],
    base: str | Path,
    teacher: str,
    max_tokens: int,
    kept: Collection[str] = (),
) -> list[tuple[str, Example]]:
    """Return the rows with the teacher's own words as targets, each behind the id that it had.

    The words weigh what the target weighed, and nothing before them weighs anything. Left out are rows whose
    answer was cut off, is empty, too long or cannot be rendered for the student. Those in `kept` stay as they
    are.
    """
    tokenizer = hf.load_tokenizer(base)
    made = []
    for example in examples:
        if example.id in kept:
            made.append((example.id, example))
            continue
        said = answers.get(example.id)
        if said is None or said.is_cut:
            continue
        try:
            row = _retold(example, said, tokenizer, teacher)
        except AgentkdError:
            continue
        if max(len(view.ids) for view in (row.student, row.teacher) if view) <= max_tokens:
            made.append((example.id, row))
    return made


def label_weight(example: Example) -> float:
    """Return the loss weight of a row's target: its last token ends the turn and is never emphasised."""
    return example.student.weights[-1] if example.student.weights else 0.0


def _retold(example: Example, said: Said, tokenizer: Any, teacher: str) -> Example:
    target = Message(role="assistant", content=said.text, origin="model")
    seen, weight = example.teacher_view, label_weight(example)

    def rendered(view: Sequence[Message]) -> Rendered:
        row = hf.render_example(tokenizer, view, target)
        return row.model_copy(update={"weights": tuple(weight * each for each in row.weights)})

    changes = {
        "id": content_id("ex", example.id, teacher, said.text, *([] if weight == 1.0 else [weight])),
        "target": target,
        "rejected": None,
        "student_rejected": None,
        "student": rendered(example.student_view),
        "teacher": rendered(seen) if seen else None,
        "provenance": example.provenance.model_copy(update={"teacher": teacher, "is_retold": True}),
    }
    return example.model_copy(update=changes)
