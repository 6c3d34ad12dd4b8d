"""A real ledger, store and index per test, held as a workspace holds them; the hashing embedder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from agentkd.config import Settings
from agentkd.embedders import HashingEmbedder
from agentkd.ledger import Ledger
from agentkd.memory import ExactIndex, MemoryStore
from agentkd.plugins import Hooks, PluginHost
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id


@dataclass
class Parts:
    """What the graph package asks of a workspace."""

    ledger: Ledger
    memory: MemoryStore
    hooks: Hooks
    settings: Settings

    def learn(self, when: str, content: str, scope: Scope | None = None) -> str:
        """Admit a lesson and return its id."""
        scope = scope or Scope()
        lesson = Memory(
            id=memory_id("insight", when, content, scope),
            kind="insight",
            when_to_use=when,
            content=content,
            keys=MemoryKeys(situation=when),
            scope=scope,
            origin="test",
        )
        return self.memory.admit([lesson])[0].memory_id


def open_parts(path: str | Path, *plugins: object, **memory: object) -> Parts:
    """Open a ledger with everything above it."""
    host = PluginHost(auto=False)
    for plugin in plugins:
        host.add(plugin, type(plugin).__name__)
    settings = Settings(memory={"trial_share": 0.0, "min_score": 0.1, **memory})
    ledger = Ledger.open(path)
    store = MemoryStore(ledger, ExactIndex(), HashingEmbedder(), settings.memory, host.hooks)
    return Parts(ledger, store, host.hooks, settings)


class Said(BaseChatModel):
    """A chat model that gives fixed replies in order and keeps what it was asked."""

    replies: list[Any]
    asked: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "said"

    def bind_tools(self, tools: Any, **options: Any) -> Said:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        self.asked.append(list(messages))
        reply = self.replies[len(self.asked) - 1]
        if isinstance(reply, Exception):
            raise reply
        message = reply if isinstance(reply, AIMessage) else AIMessage(reply)
        return ChatResult(generations=[ChatGeneration(message=message)])


def calls(*wanted: tuple[str, dict[str, Any], str], text: str = "") -> AIMessage:
    """Return a reply that asks for tools: `(name, arguments, id)`."""
    return AIMessage(
        text,
        tool_calls=[{"name": name, "args": args, "id": id_} for name, args, id_ in wanted],
        usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
        response_metadata={"model_name": "said-1"},
    )
