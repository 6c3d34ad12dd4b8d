"""Asks a model for structured answers: schema, one repair, many questions at one time.

What does not fit goes back to the model once with the error; what does not fit then is a `Refusal`:
recorded, never accepted, never silently dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from agentkd.distill.finding import DistillFailure, Finding, Notice, Rejection
from agentkd.distill.prompt import fill, load_prompt
from agentkd.distill.source import shorten
from agentkd.errors import BudgetError, ConfigError, ModelError
from agentkd.protocols import Kit, Model
from agentkd.schema import Correction, Memory, Message, Trajectory, Value

__all__ = ["AskSettings", "Asker", "Finds", "Refusal", "read_json", "said_of"]

Q = TypeVar("Q")
T = TypeVar("T")


class AskSettings(Value):
    """How a distiller asks its model."""

    prompts: str = ""
    """Folder with own prompt files, named after the distillers, and `repair.md`."""
    max_transcript_chars: int = Field(default=6000, ge=200)
    """Longest record that the model reads."""
    max_new_tokens: int = Field(default=700, ge=1)
    """Longest answer in tokens."""
    workers: int = Field(default=8, ge=1)
    """Calls in flight."""


@dataclass(frozen=True)
class Refusal:
    """An answer that did not fit, even after its repair."""

    error: str
    answer: str = ""


class Asker:
    """Asks on behalf of one distiller; everything is booked under `distill:<name>`."""

    def __init__(self, name: str, settings: AskSettings) -> None:
        self.name = name
        self.settings = settings

    def teacher(self, kit: Kit) -> Model:
        """Return the model of the role `distiller`; ConfigError names the distiller that needs it."""
        try:
            return kit.model("distiller")
        except ConfigError as error:
            raise ConfigError(
                f"the distiller `{self.name}` needs a model: {error.message}",
                hint=f"set `[roles] distiller`, or take `{self.name}` out of `[distill] distillers`",
                role="distiller",
            ) from error

    def ask(
        self, model: Model, messages: Sequence[Message], schema: Mapping[str, Any], read: Callable[[str], T]
    ) -> T | Refusal:
        """Return what `read` makes of the answer; `read` raises ValueError for one that does not fit."""
        asked = list(messages)
        for is_repair in (False, True):
            reply = model.reply(
                asked,
                schema=schema,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=0.0,
                purpose=f"distill:{self.name}",
            )
            try:
                return read(reply.text)
            except ValueError as error:
                reason = _explain(error)
            if is_repair:
                break
            complaint = fill(load_prompt("repair", self.settings.prompts), {"error": reason})
            asked = [*asked, Message(role="assistant", content=reply.text, origin="model"), *complaint]
        return Refusal(reason, reply.text)

    def each(
        self, questions: Sequence[Q], answer: Callable[[Q], T], kit: Kit
    ) -> Iterator[tuple[Q, T | ModelError]]:
        """Yield each question with its answer, in order; a model that failed once is an answer too.

        Raises BudgetError where a ceiling is met, and ModelError where no question could be asked.
        """
        unreachable: list[ModelError] = []
        with (
            kit.progress.bar(f"distill {self.name}", len(questions), "run") as bar,
            ThreadPoolExecutor(self.settings.workers) as pool,
        ):
            jobs = [pool.submit(answer, question) for question in questions]
            try:
                for question, job in zip(questions, jobs, strict=True):
                    try:
                        yield question, job.result()
                    except BudgetError:
                        raise
                    except ModelError as error:
                        unreachable.append(error)
                        yield question, error
                    bar.advance()
            finally:
                for job in jobs:
                    job.cancel()
        if questions and len(unreachable) == len(questions):
            raise unreachable[-1]

    def failure(self, trajectories: Sequence[Trajectory], why: Refusal | ModelError) -> DistillFailure:
        """Return the record of an answer that could not be used."""
        error = why.error if isinstance(why, Refusal) else f"the model failed: {why}"
        return DistillFailure(
            distiller=self.name,
            trajectories=tuple(trajectory.id for trajectory in trajectories),
            error=error,
            answer=shorten(why.answer, 400) if isinstance(why, Refusal) else "",
        )


class Finds:
    """A distiller that hands over all its findings by `attempt`; `distill` yields the memories alone."""

    name: str

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Finding]:
        """Yield candidates, failures, rejections and notices."""
        raise NotImplementedError

    def distill(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Memory]:
        """Yield candidates; what was refused or not understood is said through `kit.progress`."""
        for found in self.attempt(trajectories, corrections, kit):
            if isinstance(found, Memory):
                yield found
            elif line := said_of(found):
                kit.progress.say(line)


def said_of(found: Finding) -> str:
    """Return a finding that is no memory as one line; empty where there is nothing to say."""
    if isinstance(found, DistillFailure):
        return f"{found.distiller}: {', '.join(found.trajectories)}: {found.error}"
    if isinstance(found, Rejection):
        return f"{found.distiller}: {', '.join(found.trajectories)}: refused ({found.reason}): {found.detail}"
    return f"{found.distiller}: {found.text}" if isinstance(found, Notice) and found.text else ""


def read_json(text: str) -> Any:
    """Read an answer as JSON, also where the whole answer is one Markdown fence; raises ValueError."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text.partition("\n")[2][:-3]
    try:
        return json.loads(text)
    except RecursionError as error:  # a model that repeats `[`
        raise ValueError("the answer is nested too deeply") from error


def _explain(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        parts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        return "; ".join(parts)
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    return str(error)
