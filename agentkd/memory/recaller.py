"""Stages after the search: a model re-ranks what was found, or words it for the state at hand.

A stage chooses among the hits it is given and cannot bring in others. Where its model fails or answers
what cannot be read, the hits stay as they were found, and the failure is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentkd.errors import AgentkdError, BudgetError, ConfigError, ModelError, PluginError
from agentkd.protocols import Kit, RecallStage
from agentkd.schema import Hit, Message, Value

__all__ = ["LlmRerank", "LlmRewrite", "RerankSettings", "RewriteSettings", "candidates_of", "staged"]

_MOST_STATE = 4000  # letters of a situation that a model is shown


class RerankSettings(Value):
    """`[recaller.llm-rerank]`: choosing by a model (role `recaller`)."""

    candidates: int = Field(default=12, ge=1, le=100)
    """Hits that the model chooses from."""
    drop: bool = True
    """Whether notes that the model does not name are left out; else they follow in the order found."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest answer in tokens."""


class RewriteSettings(Value):
    """`[recaller.llm-rewrite]`: wording by a model (role `recaller`)."""

    max_chars: int = Field(default=400, ge=40)
    """Longest text of one note; a longer one is not taken."""
    max_new_tokens: int = Field(default=600, ge=1)
    """Longest answer in tokens."""


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    order: list[int]


class _Note(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int
    text: str


class _Notes(BaseModel):
    model_config = ConfigDict(extra="forbid")
    notes: list[_Note]


class LlmRerank:
    """Let a model choose and order what was found (role `recaller`)."""

    name = "llm-rerank"
    Settings = RerankSettings

    def __init__(self, settings: RerankSettings | None = None) -> None:
        self.settings = settings or RerankSettings()
        self.candidates = self.settings.candidates

    @classmethod
    def build(cls, settings: RerankSettings, kit: Any) -> LlmRerank:
        """Make the component."""
        return cls(settings)

    def apply(self, state: str, hits: Sequence[Hit], kit: Kit) -> Sequence[Hit]:
        """Return the hits that the model names, in its order; as found where it fails."""

        def read(text: str) -> list[Hit]:
            order = list(dict.fromkeys(_Order.model_validate_json(text).order))
            if any(not 1 <= number <= len(hits) for number in order):
                raise ValueError("it names a note that is not there")
            named = [hits[number - 1] for number in order]
            return named if self.settings.drop else [*named, *(hit for hit in hits if hit not in named)]

        return _asked(self.name, "rerank", _Order, state, hits, kit, self.settings.max_new_tokens, read)


class LlmRewrite:
    """Let a model word what was found for the state at hand (role `recaller`); cases stay as they are."""

    name = "llm-rewrite"
    Settings = RewriteSettings

    def __init__(self, settings: RewriteSettings | None = None) -> None:
        self.settings = settings or RewriteSettings()

    @classmethod
    def build(cls, settings: RewriteSettings, kit: Any) -> LlmRewrite:
        """Make the component."""
        return cls(settings)

    def apply(self, state: str, hits: Sequence[Hit], kit: Kit) -> Sequence[Hit]:
        """Return the hits with the model's words as their `text`; as found where it fails."""
        told = [
            hit for hit in hits if hit.memory.kind != "case"
        ]  # a case is an accepted call: kept to the letter

        def read(text: str) -> list[Hit]:
            words: dict[str, str] = {}
            for note in _Notes.model_validate_json(text).notes:
                if not 1 <= note.number <= len(told):
                    raise ValueError("it names a note that is not there")
                if 0 < len(note.text.strip()) <= self.settings.max_chars:
                    words[told[note.number - 1].memory.id] = note.text.strip()
            return [hit.model_copy(update={"text": words.get(hit.memory.id, "")}) for hit in hits]

        if not told:
            return hits
        limit = self.settings.max_new_tokens
        answer = _asked(self.name, "rewrite", _Notes, state, told, kit, limit, read)
        return hits if answer is told else answer


def candidates_of(stages: Iterable[RecallStage]) -> int:
    """Return how many hits the stages want to choose from; 0 where none asks for more than are needed."""
    return max((int(getattr(stage, "candidates", 0)) for stage in stages), default=0)


def staged(stages: Iterable[RecallStage], state: str, hits: list[Hit], kit: Kit | None) -> list[Hit]:
    """Let each stage work on what the one before it left; raises PluginError for one that breaks."""
    for stage in stages:
        if not hits:
            break
        if kit is None:
            raise ConfigError(f"the recaller `{stage.name}` needs a kit", hint="pass `kit` to the store")
        try:
            answer = list(stage.apply(state, hits, kit))
        except AgentkdError:
            raise
        except Exception as error:
            raise PluginError(
                f"recaller `{stage.name}` failed: {type(error).__name__}: {error}", plugin=stage.name
            ) from error
        known = {hit.memory.id: hit for hit in hits}
        texts = {hit.memory.id: hit.text for hit in answer}
        if not texts.keys() <= known.keys():
            raise PluginError(f"recaller `{stage.name}` returns what was not found", plugin=stage.name)
        hits = [known[id_].model_copy(update={"text": text}) for id_, text in texts.items()]
    return hits


def _asked(
    name: str,
    prompt: str,
    shape: type[BaseModel],
    state: str,
    hits: Sequence[Hit],
    kit: Kit,
    max_new_tokens: int,
    read: Callable[[str], list[Hit]],
) -> Sequence[Hit]:
    """Ask the model of the role and return what `read` makes of its answer, else the hits as they are.

    Raises BudgetError where a ceiling is met, and ConfigError where no model plays the role.
    """
    model = kit.model("recaller")
    notes = [
        {"number": at, "when": hit.memory.when_to_use, "note": hit.text or hit.memory.content}
        for at, hit in enumerate(hits, start=1)
    ]
    asked = json.dumps({"situation": state[:_MOST_STATE], "notes": notes}, ensure_ascii=False)
    try:
        reply = model.reply(
            [Message(role="system", content=_prompt(prompt)), Message(role="user", content=asked)],
            schema=shape.model_json_schema(),
            max_new_tokens=max_new_tokens,
            temperature=0.0,
            purpose=f"recall:{name}",
        )
        return read(_json_of(reply.text))
    except BudgetError:
        raise
    except (ModelError, ValidationError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        kit.progress.say(f"recaller `{name}` left the notes as they were found: {reason}")
        return hits


def _json_of(text: str) -> str:
    """Return the outermost JSON object of an answer: models like to put it between fences."""
    return text[text.find("{") : text.rfind("}") + 1]


@cache
def _prompt(name: str) -> str:
    return (files("agentkd.memory") / "prompts" / f"{name}.md").read_text(encoding="utf-8")
