"""Asks a teacher for items: schema, one repair, many questions at one time, answers in the order of asking.

What does not fit goes back once with the error; what does not fit then is `Unusable`: recorded, never
accepted, never silently dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from agentkd.errors import BudgetError, ModelError
from agentkd.protocols import Model
from agentkd.schema import Budget, Memory, Message, Synthetic, Trajectory, Unusable, Value
from agentkd.synthesize.prompt import fill, load_prompt

__all__ = ["AskSettings", "Question", "ask_all", "read_as"]

Shape = TypeVar("Shape", bound=BaseModel)
_HEAD = 400  # characters of an unusable answer that are kept


class AskSettings(Value):
    """How a synthesizer asks the teacher."""

    prompts: str = ""
    """Folder with own prompt files, named after the synthesizers, and `repair.md`."""
    max_new_tokens: int = Field(default=900, ge=1)
    """Longest answer in tokens."""
    workers: int = Field(default=8, ge=1)
    """Calls in flight."""


@dataclass(frozen=True)
class Question:
    """One question about one seed."""

    seed: Trajectory
    """What it is about."""
    messages: Sequence[Message]
    """What is asked."""
    memories: Sequence[Memory] = ()
    """Lessons that are shown."""


Read = Callable[[Question, str], list[Synthetic]]


def ask_all(
    name: str,
    settings: AskSettings,
    teacher: Model,
    questions: Sequence[Question],
    schema: Mapping[str, Any],
    read: Read,
    budget: Budget,
    *,
    per_question: int = 1,
) -> Iterator[Synthetic | Unusable]:
    """Yield the items of every question in order until there are `budget.items`.

    `read` makes items of an answer and raises ValueError with words that a model can act upon. Raises
    BudgetError where a ceiling is met; a model that fails otherwise is an `Unusable` per question.
    """
    left = budget.items

    def ask(question: Question) -> list[Synthetic] | Unusable:
        return _ask(name, settings, teacher, question, schema, read)

    with ThreadPoolExecutor(settings.workers) as pool:
        jobs: list[Future[list[Synthetic] | Unusable]] = []
        waiting = iter(questions)
        try:
            while left > 0:  # what is not needed is not asked
                n = min(settings.workers, -(-left // per_question))
                jobs = [pool.submit(ask, question) for question in islice(waiting, n)]
                if not jobs:
                    return
                for job in jobs:
                    found = job.result()
                    if isinstance(found, Unusable):
                        yield found
                    else:
                        yield from found[:left]
                        left -= len(found[:left])
        finally:
            for job in jobs:
                job.cancel()


def _ask(
    name: str,
    settings: AskSettings,
    teacher: Model,
    question: Question,
    schema: Mapping[str, Any],
    read: Read,
) -> list[Synthetic] | Unusable:
    asked, error, answer = list(question.messages), "", ""
    for is_repair in (False, True):
        try:
            reply = teacher.reply(
                asked, schema=schema, max_new_tokens=settings.max_new_tokens, temperature=0.0,
                purpose=f"synthesize:{name}",
            )  # fmt: skip
        except BudgetError:
            raise
        except ModelError as fault:
            return Unusable(synthesizer=name, seed=question.seed.id, error=str(fault), is_model_fault=True)
        answer = reply.text
        try:
            return read(question, answer)
        except ValueError as fault:
            error = _explain(fault)
        if not is_repair:
            complaint = fill(load_prompt("repair", settings.prompts), {"error": error})
            asked = [*asked, Message(role="assistant", content=answer, origin="model"), *complaint]
    return Unusable(synthesizer=name, seed=question.seed.id, error=error, answer=answer[:_HEAD])


def read_as(shape: type[Shape], text: str) -> Shape:
    """Read an answer as JSON of a shape, also where all of it is one Markdown fence; raises ValueError."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text.partition("\n")[2][:-3]
    return shape.model_validate(json.loads(text))


def _explain(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    return str(error)
