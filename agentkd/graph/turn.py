"""One turn of a foreign conversation as a trajectory: from a human request to what was answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentkd.agents.review import AnyDecision, Edit, Reject, Respond, Reviewed, correction_of, settle
from agentkd.agents.taint import OUTER
from agentkd.graph.mark import believed, is_foreign
from agentkd.graph.message import (
    answers_of,
    call_of,
    is_notes,
    is_summary,
    marks_of,
    message_of,
    recall_of,
    request_key,
    result_of,
    reviewed_of,
    text_of,
    turn_of,
    usage_of,
)
from agentkd.graph.notes import Found, Recall, ids_of_turn, shown_of
from agentkd.hf import call_text
from agentkd.schema import (
    Correction,
    Failure,
    Heard,
    Message,
    Step,
    Task,
    ToolResult,
    Trajectory,
    Usage,
    content_id,
)
from agentkd.trust import heard_after

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage

    from agentkd.graph.host import Host

__all__ = ["Turn", "as_read", "read_turn"]

_EARLIER_CHARS = 200_000
"""Characters of a conversation before a request that are kept; more fit into no student's context."""

_REJECTED = "User rejected the tool call for `{name}`"
"""How LangChain's HumanInTheLoopMiddleware begins the answer to a refused call."""

_REPLACED = "Note: a human reviewer replaced this tool call"
"""How it begins the result of a call that a person edited."""


@dataclass(frozen=True)
class Turn:
    """What is known of a turn so far."""

    trajectory: Trajectory
    """The steps that are complete."""
    reviewed: dict[int, list[Reviewed]]
    """What became of the calls, by step."""
    recall: Recall
    """What was recalled for it."""
    is_complete: bool
    """Whether every call is answered."""

    def corrections(self, trajectory_id: str, step: int) -> list[Correction]:
        """Return what people decided in a step, as it is stored under an id."""
        found = (correction_of(review, trajectory_id, step) for review in self.reviewed.get(step, ()))
        return [correction for correction in found if correction is not None]


def read_turn(
    host: Host,
    messages: Sequence[BaseMessage],
    config: Mapping[str, Any],
    *,
    recall: Recall | None = None,
    is_traced: bool = False,
    failure: Failure | None = None,
) -> Turn | None:
    """Read the turn since the last human request; None where there is none.

    Args:
        host: Whose marks are believed.
        messages: The whole conversation.
        config: Of the graph: its `thread_id` names the run.
        recall: What was recalled, where the messages do not say so.
        is_traced: Whether our middleware marked every result that a tool gave: then one without a mark
            that says a person refused is believed, and another one is not the tool's.
        failure: Why the turn broke off.
    """
    messages = believed(host, messages, config)
    turn = turn_of(messages)
    if not turn:
        return None
    recall = recall_of(messages) if recall is None else recall
    start = len(messages) - len(turn)
    notes = [message for message in messages[:start] if is_notes(message)]
    (run_id, id_), prompt = ids_of_turn(messages, config), text_of(turn[0])
    replies: list[Any] = [message for message in turn if message.type == "ai"]
    told = answers_of(turn)
    steps: list[Step] = []
    reviews: dict[int, list[Reviewed]] = {}
    shown: dict[int, Message] = {}
    unseen: set[int] = set()
    for reply in replies:
        answers = told[id(reply)]
        reviewed = [_review(at, reply, answer, is_traced) for at, answer in enumerate(answers)]
        step, message = _step(len(steps), reply, reviewed, answers, shown_of(recall))
        if step is None:
            break
        unseen |= _unseen(answers, reviewed)
        reviews[step.index] = reviewed
        steps.append(step)
        shown[id(reply)] = message
    last = replies[-1] if replies else None
    trajectory = Trajectory(
        id=id_,
        run_id=run_id,
        task=Task(id=content_id("adh", prompt), prompt=prompt),
        model=str(last.response_metadata.get("model_name", "")) if last is not None else "",
        earlier=_earlier(messages[:start], is_traced),
        heard=_heard(messages, start, run_id, unseen),
        messages=tuple(shown.get(id(message)) or message_of(message) for message in (*notes, *turn)),
        steps=tuple(steps),
        answer="" if last is None or last.tool_calls else text_of(last),
        failure=failure,
        usage=sum((step.usage for step in steps), Usage(usd=None)),
    )
    return Turn(trajectory, reviews, recall, bool(replies) and len(steps) == len(replies))


def _unseen(answers: Sequence[BaseMessage | None], reviewed: Sequence[Reviewed]) -> set[int]:
    """Return the answers, by `id()`, of calls in whose place something unknown ran."""
    pairs = zip(answers, reviewed, strict=True)
    return {id(answer) for answer, r in pairs if r.accepted is None and r.decision is None}


def _result(answer: BaseMessage, decision: AnyDecision | None) -> ToolResult:
    """Return what a tool said, or a person in its place."""
    result = result_of(answer)
    is_said = isinstance(decision, Respond) and text_of(answer) == decision.text
    return result.model_copy(update={"trust": "trusted"}) if is_said else result


def _heard(
    messages: Sequence[BaseMessage], start: int, run_id: str, unseen: Collection[int]
) -> tuple[Heard, ...]:
    """Return what tools said that is in no step: the model has it before its eyes, whoever asks now.

    That is the output of the turns before message `start`; the `unseen` messages of this turn, by `id()`
    (what ran in place of their calls is not known, and a tool may say so of itself); a summary; and what the
    agent had heard that called this one as its tool. Each earlier turn is named: what is revoked of it
    reaches those who read on.
    """
    names = {call["id"]: call["name"] for m in messages for call in getattr(m, "tool_calls", ())}
    reviews = (review for m in messages if m.type == "ai" for review in reviewed_of(m))  # type: ignore[arg-type]
    decisions = {review.proposed.id: review.decision for review in reviews}
    told, turns, id_ = list[Heard](), dict[str, None](), ""
    for at, message in enumerate(messages):
        if at >= start and is_summary(message):  # it took the place of the request and of what came then
            told.append(Heard(tool="summarization", text=text_of(message), trust="untrusted"))
        if message.type == "human":
            id_ = content_id("tra", run_id, request_key(messages[: at + 1]))
            if at < start and not is_summary(message):
                turns[id_] = None
        if message.type != "tool":
            continue
        call_id = str(message.tool_call_id)  # type: ignore[attr-defined]
        if at < start or id(message) in unseen:
            result, name = (
                _result(message, decisions.get(call_id)),
                str(message.name or names.get(call_id, "")),
            )
            text = result.error or result.content
            told.append(Heard(tool=name, text=text, trust=result.trust, trajectory=id_ if at < start else ""))
    told = [each for each in told if each.text]
    spoke = {each.trajectory for each in told}
    return heard_after(also=[*OUTER.get().heard, *(as_read(id_) for id_ in turns if id_ not in spoke), *told])


def as_read(trajectory: str) -> Heard:
    """Return that a model has read an earlier turn of its conversation in which no tool spoke."""
    return Heard(tool="conversation", trust="trusted", trajectory=trajectory)


def _earlier(messages: Sequence[BaseMessage], is_traced: bool) -> tuple[Message, ...]:
    """Return what was said before a request, without notes and calls that did not run; the newest part."""
    told, found = answers_of(messages), list[Message]()
    for message in messages:
        if message.type == "human" or (message.type == "ai" and not message.tool_calls):  # type: ignore[attr-defined]
            said = message_of(message)
            found += [said] if said.content.strip() else []
        for at, answer in enumerate(told.get(id(message), ())):
            review = _review(at, message, answer, is_traced)  # type: ignore[arg-type]
            if review.accepted is None or answer is None:
                continue
            call, result = review.accepted, _result(answer, review.decision)
            text = result.content if result.ok else f"error: {result.error}"
            found += [
                Message(role="assistant", content=call_text(call), tool_calls=(call,), origin="model"),
                Message(role="tool", content=text, name=call.name, origin="tool"),
            ]
    left, kept = _EARLIER_CHARS, list[Message]()
    for said in reversed(found):
        left -= len(said.content)
        if left < 0:
            break
        kept.append(said)
    return tuple(reversed(kept))


def _review(at: int, reply: AIMessage, answer: BaseMessage | None, is_traced: bool) -> Reviewed:
    """Say what became of call number `at`: what a person decided stands on the messages."""
    told, proposed = reviewed_of(reply), call_of(reply.tool_calls[at])
    if told:
        return told[at]
    if answer is None:
        return settle(proposed, None)
    if is_foreign(reply) or is_foreign(answer):
        return Reviewed(proposed=proposed, accepted=None)  # what ran is not known
    executed = marks_of(answer).get("executed")
    if executed is not None:
        ran = call_of({**executed, "id": proposed.id})
        if ran == proposed and text_of(answer).startswith(_REPLACED):
            return Reviewed(proposed=proposed, accepted=None)  # replaced unseen: what ran is not known
        return settle(proposed, None if ran == proposed else Edit(call=ran))
    text, is_error = text_of(answer), getattr(answer, "status", "") == "error"
    is_refusal = is_error and text.startswith(_REJECTED.format(name=proposed.name))
    if is_traced and is_refusal:
        return settle(proposed, Reject(reason=text.partition(" with reason: ")[2]))
    if is_refusal or text.startswith(_REPLACED) or (is_traced and not is_error):
        return Reviewed(proposed=proposed, accepted=None)  # what ran, if anything, is not known
    return settle(proposed, None)


def _step(
    index: int,
    reply: AIMessage,
    reviewed: Sequence[Reviewed],
    answers: Sequence[BaseMessage | None],
    recalled: Sequence[Found],
) -> tuple[Step | None, Message]:
    """Return a complete step and its message with the calls that stood; None while one is unanswered."""
    proposal = message_of(reply).model_copy(update={"tool_calls": tuple(r.proposed for r in reviewed)})
    stood, results = [], list[ToolResult]()
    for review, answer in zip(reviewed, answers, strict=True):
        if answer is None:
            return None, proposal
        if review.accepted is not None:
            stood.append(review.accepted)
            results.append(_result(answer, review.decision))
    is_edited = any(isinstance(review.decision, Edit) for review in reviewed)
    calls = tuple(review.accepted or review.proposed for review in reviewed)
    return (
        Step(
            index=index,
            reply=proposal,
            accepted_calls=tuple(stood),
            results=tuple(results),
            recalled=tuple(found["id"] for found in recalled if found["step"] == index),
            usage=usage_of(reply),
        ),
        proposal.model_copy(update={"tool_calls": calls}) if is_edited else proposal,
    )
