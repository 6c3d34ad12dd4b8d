"""Whether a run has read what nobody answers for, and what its model may do after that.

A model that has read foreign text may do what the text says, however it is worded: a filter over words can be
talked past. So the source decides: once untrusted output of a tool, or an untrusted memory, stands in the
context, a tool with side effects is run only after a person has agreed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from agentkd.agents.review import Reviewed
from agentkd.agents.state import Run, trajectory_of
from agentkd.config import TrustSettings
from agentkd.schema import Heard, Hit, Task, ToolCall, ToolResult, ToolSpec, Value
from agentkd.schema.message import Declared
from agentkd.trust import heard_after, is_of_suite, is_trusted_output

__all__ = [
    "OUTER",
    "Outer",
    "calling",
    "declared_trust",
    "foreign_before",
    "foreign_memory",
    "foreign_output",
    "foreign_request",
    "has_side_effects",
    "refused",
]


class Outer(Value):
    """What stands before the eyes of an agent whose tool runs now."""

    heard: tuple[Heard, ...] = ()
    """What it has heard of tools."""
    tainted: str = ""
    """What brought text into its context that nobody answers for; empty where nothing did."""


_NOBODY = Outer()
OUTER: ContextVar[Outer] = ContextVar("agentkd_outer", default=_NOBODY)
"""The agent whose tool runs now: an agent within that tool is asked in its words."""


@contextmanager
def calling(run: Run, trust: TrustSettings) -> Iterator[None]:
    """Let agents within a block, the call of a tool, know what the run that calls it has heard.

    What the tools of a suite say without a declaration is trusted there, and so it is in what they call. An
    untrusted memory is heard as the tool `recall`.
    """
    is_suite = is_of_suite(run.task, trust)
    heard = [
        each.model_copy(update={"trust": "trusted"}) if is_suite and not each.trust else each
        for each in heard_after(trajectory_of(run))
    ]
    if run.tainted and not foreign_before(run.task, heard, trust):
        heard.append(Heard(tool="recall", trust="untrusted"))
    token = OUTER.set(Outer(heard=tuple(heard), tainted=run.tainted))
    try:
        yield
    finally:
        OUTER.reset(token)


def foreign_request(task: Task, outer: Outer, trust: TrustSettings) -> str:
    """Return which untrusted text a request of another agent may carry on, in words; empty for none."""
    held = outer.tainted or foreign_before(task, outer.heard, trust)
    return f"words of an agent that held {held}" if held else ""


def foreign_output(
    task: Task,
    tools: Sequence[ToolSpec],
    reviewed: Sequence[Reviewed],
    results: Sequence[ToolResult],
    trust: TrustSettings,
) -> str:
    """Return which tool of a turn brought in untrusted text, in words; empty where none did.

    A tool's output is trusted where `[trust]` or its spec says so; undeclared, that of a suite's tool is and
    any other is not. What a person answered in a tool's place is the person's.
    """
    declared = declared_trust(tools)
    is_suite = is_of_suite(task, trust)
    for each, result in zip(reviewed, results, strict=True):
        was_run = each.accepted is not None and each.result is None
        if was_run and each.accepted is not None and (result.content or result.error):
            name = each.accepted.name
            if not is_trusted_output(name, declared.get(name, ""), is_suite, trust):
                return f"output of the tool `{name}`, which is not declared as trusted"
    return ""


def declared_trust(tools: Sequence[ToolSpec]) -> dict[str, Declared]:
    """Return what specs say of each tool's output; of several with one name, doubt counts first."""
    found: dict[str, Declared] = {}
    for spec in tools:
        if spec.trust == "untrusted" or not found.get(spec.name):
            found[spec.name] = spec.trust
    return found


def foreign_before(task: Task, heard: Sequence[Heard], trust: TrustSettings) -> str:
    """Return which untrusted text the lessons of earlier tries may carry on, in words; empty for none."""
    is_suite = is_of_suite(task, trust)
    for each in heard:
        if not is_trusted_output(each.tool, each.trust, is_suite, trust):
            return f"lessons of a try that read the untrusted output of the tool `{each.tool}`"
    return ""


def foreign_memory(hits: Sequence[Hit]) -> str:
    """Return the untrusted memory among what is shown, in words; empty where there is none."""
    ids = [hit.memory.id for hit in hits if hit.memory.trust == "untrusted"]
    return f"the untrusted memory `{ids[0]}`" if ids else ""


def has_side_effects(call: ToolCall, tools: Sequence[ToolSpec]) -> bool:
    """Whether a call changes something outside of the agent, as its tool's spec declares."""
    return any(spec.name == call.name and spec.has_side_effects for spec in tools)


def refused(call: ToolCall, tainted: str) -> Reviewed:
    """Return a call that is not run, because nobody can be asked about it."""
    said = f"not run: `{call.name}` has side effects, and this conversation holds {tainted}"
    return Reviewed(proposed=call, accepted=None, result=ToolResult(error=said))
