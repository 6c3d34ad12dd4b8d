"""A person decides on a proposed call: approve, edit, reject or respond; what that teaches is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from agentkd.errors import DataError
from agentkd.schema import Correction, ToolCall, ToolResult, Value, content_id

__all__ = [
    "Approve",
    "Decision",
    "Edit",
    "Reject",
    "Respond",
    "Reviewed",
    "correction_of",
    "read_decision",
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


Decision = Annotated[Approve | Edit | Reject | Respond, Field(discriminator="kind")]
_DECISION: TypeAdapter[Approve | Edit | Reject | Respond] = TypeAdapter(Decision)


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


def read_decision(data: object) -> Approve | Edit | Reject | Respond:
    """Read a decision from a value or plain JSON data; raises DataError."""
    try:
        return _DECISION.validate_python(data)
    except ValidationError as error:
        raise DataError(
            f"this is no decision on a tool call: {error.errors()[0]['msg']}",
            hint="use Approve(), Edit(call=...), Reject(reason=...) or Respond(text=...)",
        ) from error


def settle(call: ToolCall, decision: Approve | Edit | Reject | Respond | None) -> Reviewed:
    """Apply a decision to a proposed call; None is a call that nobody was asked about."""
    if isinstance(decision, Edit):
        edited = decision.call.model_copy(update={"id": call.id})  # the provider pairs results by this id
        return Reviewed(proposed=call, accepted=edited, decision=decision)
    if isinstance(decision, Reject):
        said = (
            f"a person refused this call: {decision.reason}"
            if decision.reason
            else "a person refused this call"
        )
        return Reviewed(proposed=call, accepted=None, result=ToolResult(error=said), decision=decision)
    if isinstance(decision, Respond):
        result = ToolResult(content=decision.text)
        return Reviewed(proposed=call, accepted=call, result=result, decision=decision)
    return Reviewed(proposed=call, accepted=call, decision=decision)


def correction_of(reviewed: Reviewed, trajectory_id: str, step: int) -> Correction | None:
    """Return what a decision teaches: an edit corrects parameters or the plan, a rejection the plan."""
    decision, proposed, accepted = reviewed.decision, reviewed.proposed, reviewed.accepted
    if isinstance(decision, Reject):
        text = decision.reason or f"Do not call `{proposed.name}` here."
        kind: Literal["plan", "parameter"] = "plan"
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
