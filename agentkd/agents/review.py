"""A person decides on a proposed call: approve, edit, reject, respond or restart; what that teaches is kept.

What the model sees afterwards is no more than the decision needs (DROC, arXiv 2311.10678): after an edit the
call that was run and its result, after a rejection the reason, after a restart the request and the person's
words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from agentkd.errors import DataError
from agentkd.plugins import nearest
from agentkd.schema import Correction, ToolCall, ToolResult, ToolSpec, Value, call_fault, content_id

__all__ = [
    "Approve",
    "Decision",
    "Edit",
    "Reject",
    "Respond",
    "Restart",
    "Reviewed",
    "check_call",
    "correction_of",
    "read_decision",
    "read_decisions",
    "settle",
]


class Approve(Value):
    """Run the call as proposed."""

    kind: Literal["approve"] = "approve"
    """Tag."""


class Edit(Value):
    """Run another call in its place."""

    kind: Literal["edit"] = "edit"
    """Tag."""
    call: ToolCall
    """Call that is right."""
    reason: str = ""
    """Why, in the person's words; distillers read it."""


class Reject(Value):
    """Do not run the call; the model hears why and goes on."""

    kind: Literal["reject"] = "reject"
    """Tag."""
    reason: str = ""
    """Why, in the person's words; distillers read it."""


class Respond(Value):
    """Answer in the tool's place; the call counts as accepted."""

    kind: Literal["respond"] = "respond"
    """Tag."""
    text: str
    """What the model reads as the tool's result."""


class Restart(Value):
    """Give this try up and begin the task anew: what was done so far is forgotten but for the reason."""

    kind: Literal["restart"] = "restart"
    """Tag."""
    reason: str = Field(min_length=1)
    """What should be done another way; stands before the request in the new try."""


AnyDecision = Approve | Edit | Reject | Respond | Restart
Decision = Annotated[AnyDecision, Field(discriminator="kind")]
_DECISION: TypeAdapter[AnyDecision] = TypeAdapter(Decision)


class Reviewed(Value):
    """What became of one proposed call."""

    proposed: ToolCall
    """Call of the model."""
    accepted: ToolCall | None
    """Call that stands; None after a rejection."""
    result: ToolResult | None = None
    """Result that a person gave; None where the tool is to be run."""
    decision: Decision | None = None
    """The person's decision; None where nobody was asked."""


def read_decision(data: object) -> AnyDecision:
    """Read a decision: a value, its JSON, or one of LangChain's HumanInTheLoop; raises DataError."""
    try:
        return _DECISION.validate_python(_from_langchain(data) if isinstance(data, Mapping) else data)
    except ValidationError as error:
        raise DataError(
            f"this is no decision on a tool call: {error.errors()[0]['msg']}",
            hint="use Approve(), Edit(call=), Reject(reason=), Respond(text=), Restart(reason=) or "
            'LangChain\'s {"type": "edit", "edited_action": {"name": ..., "args": {...}}}',
        ) from error


def read_decisions(data: object) -> list[AnyDecision]:
    """Read one decision or several: a list, or LangChain's `{"decisions": [...]}`; raises DataError."""
    if isinstance(data, Mapping) and "decisions" in data:
        data = data["decisions"]
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        if not data:
            raise DataError("there is no decision in the list", hint="give one decision per waiting call")
        return [read_decision(each) for each in data]
    return [read_decision(data)]


def _from_langchain(data: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Translate a decision of LangChain's middleware; anything else is returned as it is."""
    kind, words = data.get("type"), data.get("message") or ""
    if kind == "edit" and isinstance(data.get("edited_action"), Mapping):
        action = data["edited_action"]
        call = {"name": action.get("name"), "arguments": action.get("args", {})}
        return {"kind": "edit", "call": call, "reason": words}
    if kind == "respond":
        return {"kind": "respond", "text": words}
    if kind in ("reject", "restart"):
        return {"kind": kind, "reason": words}
    return {"kind": "approve"} if kind == "approve" and set(data) <= {"type", "message"} else data


def check_call(call: ToolCall, tools: Sequence[ToolSpec], then: str) -> None:
    """Raise DataError for a person's call that none of these tools takes; `then` says what becomes of it."""
    if fault := call_fault(call, tools, is_lenient=True):
        takes = {tool.name: tool.parameters.get("properties") for tool in tools}
        known = takes.get(call.name)
        named = f"it takes: {', '.join(map(str, known))}" if isinstance(known, Mapping) and known else ""
        raise DataError(f"{fault}; {then}", hint=named if call.name in takes else nearest(call.name, takes))


def settle(call: ToolCall, decision: AnyDecision | None) -> Reviewed:
    """Apply a decision to a proposed call; None is a call that nobody was asked about."""
    if isinstance(decision, Edit):
        edited = decision.call.model_copy(update={"id": call.id})  # the provider pairs results by this id
        return Reviewed(proposed=call, accepted=edited, decision=decision)
    if isinstance(decision, Restart):
        return Reviewed(proposed=call, accepted=None, decision=decision)
    if isinstance(decision, Reject):
        said = (
            f"a person refused this call: {decision.reason}"
            if decision.reason
            else "a person refused this call"
        )
        return Reviewed(proposed=call, accepted=None, result=ToolResult(error=said), decision=decision)
    if isinstance(decision, Respond):
        result = ToolResult(content=decision.text, trust="trusted")  # a person's words, not the tool's
        return Reviewed(proposed=call, accepted=call, result=result, decision=decision)
    return Reviewed(proposed=call, accepted=call, decision=decision)


def correction_of(reviewed: Reviewed, trajectory_id: str, step: int) -> Correction | None:
    """Return what a decision teaches: an edit corrects parameters or the plan, a refusal the plan.

    Only an edit accepts a call for good: an answer in a tool's place says what the call should have given,
    so its correction holds the person's words alone, and neither a rule nor a training row is made of it.
    """
    decision, proposed, accepted = reviewed.decision, reviewed.proposed, reviewed.accepted
    if isinstance(decision, (Reject, Restart)):
        text = decision.reason or f"Do not call `{proposed.name}` here."
        kind: Literal["plan", "parameter", "answer"] = "plan"
    elif isinstance(decision, Respond):
        if not decision.text:
            return None
        text, kind, accepted = decision.text, "answer", None
    elif isinstance(decision, Edit) and accepted is not None:
        if (accepted.name, accepted.arguments) == (proposed.name, proposed.arguments):
            return None
        text = decision.reason or _difference(proposed, accepted)
        kind = "parameter" if accepted.name == proposed.name else "plan"
    else:
        return None
    calls = ((proposed,), () if accepted is None else (accepted,))
    return Correction(
        id=content_id("cor", trajectory_id, step, "person", text, *calls),
        trajectory_id=trajectory_id,
        step=step,
        text=text,
        source="person",
        kind=kind,
        proposed=calls[0],
        accepted=calls[1],
    )


def _difference(proposed: ToolCall, accepted: ToolCall) -> str:
    if proposed.name != accepted.name:
        return f"Call `{accepted.name}` in place of `{proposed.name}`."
    before, after = proposed.arguments, accepted.arguments
    parts = [f"set `{k}` to {v!r}" for k, v in after.items() if k not in before or before[k] != v]
    parts += [f"leave out `{k}`" for k in before if k not in after]
    return f"In `{accepted.name}`, {', '.join(parts)}."
