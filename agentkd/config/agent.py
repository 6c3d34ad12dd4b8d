"""The table `[agent]`: the loop and what it may do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkd.schema import Value

__all__ = ["AgentSettings", "WhenTainted"]

WhenTainted = Literal["ask", "refuse", "allow"]


class AgentSettings(Value):
    """`[agent]`: the loop."""

    instructions: str = ""
    """System instructions; empty takes the built-in ones."""
    max_steps: int = 8
    """Model turns before the run ends as `limit`."""
    max_calls_per_step: int = Field(default=32, ge=1)
    """Tool calls of one turn; a model that asks for more ends the run as `limit`, and none of them is run."""
    recall: Literal["off", "start", "step"] = "step"
    """When memories are recalled: never, once, or before every turn."""
    tool_docs: Literal["auto", "all", "none"] = "auto"
    """Whether the prompt describes the tools; `auto` leaves them out for a trained student."""
    tool_detail: Literal["full", "brief"] = "full"
    """`full` describes every parameter; `brief` gives a name and the head of its description, which is
    enough where a grammar spells the parameters."""
    force_tool_call: bool = False
    """Whether every turn must be a tool call (suites whose tasks are single calls set it)."""
    tools: tuple[str, ...] = ()
    """Components of kind `tool` that agents get besides the tools of their program, such as `fetch` and
    `run-python`."""
    sandbox: str = "auto"
    """Component of kind `sandbox` that code tools run in; `auto` takes the first of `sandlock` and
    `bubblewrap` that works on this machine. Where none does, code is not run."""
    when_tainted: WhenTainted = "ask"
    """What becomes of a call with side effects once the conversation holds untrusted output of a tool or an
    untrusted memory: `ask` lets it wait for a person, `refuse` tells the model that it was not run, `allow`
    runs it. Where nobody can be asked (a suite), `ask` is `refuse`."""
