"""Whether a run has read what nobody answers for, and what its model may do after that.

A model that has read foreign text may do what the text says, however it is worded: a filter over words can be
talked past. So the source decides: once untrusted output of a tool, or an untrusted memory, stands in the
context, a tool with side effects is run only after a person has agreed.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentkd.agents.review import Reviewed
from agentkd.config import TrustSettings
from agentkd.schema import Heard, Hit, Task, ToolCall, ToolResult, ToolSpec
from agentkd.schema.message import Declared
from agentkd.trust import is_of_suite, is_trusted_output

__all__ = [
    "declared_trust",
    "foreign_before",
    "foreign_memory",
    "foreign_output",
    "has_side_effects",
    "refused",
]


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
