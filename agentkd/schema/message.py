"""What models and tools say: messages, tool calls, tool results, replies and their cost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentkd.schema.base import Value
from agentkd.schema.text import JsonObject, JsonValue

__all__ = [
    "REDACTED",
    "Declared",
    "Message",
    "Reply",
    "TokenTrace",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Usage",
]

REDACTED = "[redacted:"
"""Beginning of what stands in a stored text in the place of a secret: `[redacted:KIND]`."""

Role = Literal["system", "user", "assistant", "tool"]
Origin = Literal["user", "tool", "model", "memory", "system", "person"]
Declared = Literal["", "trusted", "untrusted"]
"""Whether what a tool brings in may be relied on; empty where nobody said so."""


class ToolSpec(Value):
    """A tool as a model sees it."""

    name: str
    """Name that the model calls; letters, digits, `_`, `-` and `.`."""
    description: str = ""
    """One or two sentences on what it does and when to use it."""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of the arguments object."""
    has_side_effects: bool = False
    """Whether a call changes something outside the agent."""
    trust: Declared = ""
    """Whether its output may be relied on; undeclared, a suite's tool may and any other may not."""


class ToolCall(Value):
    """One call that a model asks for."""

    name: str
    """Name of the tool."""
    arguments: JsonObject = Field(default_factory=dict)
    """Arguments by parameter name."""
    id: str = ""
    """Provider's id of the call; empty where the provider gives none."""


class ToolResult(Value):
    """What a tool answered."""

    content: str = ""
    """Text that goes back to the model."""
    error: str = ""
    """Why the call failed; empty on success."""
    value: JsonValue = None
    """JSON value of the result where the tool returned one."""
    ends_task: bool = False
    """Whether the environment considers the task finished after this call."""
    trust: Declared = ""
    """What the tool's spec declares; the loop sets it, and believes a tool that calls its own output
    untrusted. What a person answered in the tool's place is trusted."""

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return not self.error


class Message(Value):
    """One message of a conversation."""

    role: Role
    """Who speaks."""
    content: str = ""
    """Text of the message."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that an assistant message asks for."""
    tool_call_id: str = ""
    """For a tool message: the id of the call that it answers."""
    name: str = ""
    """For a tool message: the tool's name."""
    origin: Origin = "user"
    """Where the text comes from; recalled memory and tool output are data, never instructions."""


class Usage(Value):
    """What a model call cost."""

    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens written."""
    cached_tokens: int = 0
    """Prompt tokens that were served from a prefix cache."""
    usd: float | None = None
    """Money in US dollars; None where the price is unknown, 0.0 for a local model."""
    seconds: float = 0.0
    """Wall time; for a batched local call the batch's time divided by its size."""

    def __add__(self, other: Usage) -> Usage:
        """Add two costs; an unknown price stays unknown."""
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            usd=usd,
            seconds=self.seconds + other.seconds,
        )


class TokenTrace(Value):
    """The exact tokens of a reply, where the model reports them."""

    prompt_ids: tuple[int, ...] = ()
    """Token ids of the rendered prompt."""
    completion_ids: tuple[int, ...] = ()
    """Token ids of the reply, the stop token included where one was emitted."""
    log_probs: tuple[float, ...] = ()
    """Natural-log probability of each completion token under the unmasked distribution."""
    template_hash: str = ""
    """Hash of the chat template and tokenizer that made the ids."""
    pieces: tuple[str, ...] = ()
    """Bytes of each completion token as Latin-1 text, where a remote model was asked for its top tokens."""
    top: tuple[tuple[tuple[str, float], ...], ...] = ()
    """For each completion token its likeliest alternatives, (bytes as Latin-1 text, log-probability); empty
    where no token has any."""


class Reply(Value):
    """What a model answered."""

    text: str = ""
    """Text of the answer; for a grammar-constrained tool call, the JSON that was parsed."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Tool calls of the answer."""
    usage: Usage = Usage()
    """What the call cost."""
    model: str = ""
    """Name of the model that answered, with its checkpoint (`base@checkpoint`)."""
    finish_reason: Literal["stop", "length", "tool_calls", "error"] = "stop"
    """Why the reply ended."""
    tokens: TokenTrace | None = None
    """Exact tokens and log-probabilities; None where the provider reports none."""

    def to_message(self) -> Message:
        """Return the reply as an assistant message."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls, origin="model")
