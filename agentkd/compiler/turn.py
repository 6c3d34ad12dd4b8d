"""Finds what is worth saying again: one turn per accepted call or answer, with its history.

A turn's target comes from a correction where there is one, else from a successful trajectory. A failed
trajectory without a correction teaches nothing positive; that a tool took a call is no correction of a run
that a grader calls failed. Parallel calls become single calls in a row,
because a small model writes one call per turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkd.compiler.call import Specs
from agentkd.compiler.correction import (
    OBJECTED,
    SAY,
    final_of,
    objections,
    of_one_call,
    rank,
    usable_corrections,
)
from agentkd.hf import call_text
from agentkd.schema import (
    Correction,
    Message,
    Step,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    user_turns,
)

__all__ = [
    "Standing",
    "Turn",
    "merge_turns",
    "spoken",
    "standing_before",
    "turns_of",
]


Standing = tuple[str, str, tuple[tuple[str, str], ...]]
"""Request, instructions of the task, and role and text of each message before and since."""


@dataclass(frozen=True)
class Turn:
    """One assistant turn that may become a row."""

    trajectory: Trajectory
    """The trajectory; the first one where several gave the same turn."""
    step: int
    """Index of the step."""
    history: tuple[Message, ...]
    """What was said and answered after the request and before the turn, by the user too."""
    target: Message
    """What is to be said."""
    rejected: Message | None = None
    """What was said instead, where a correction tells."""
    teacher: str = ""
    """Who supplied the target: the source of a correction, or the model that acted."""
    is_correction: bool = False
    """Whether the target comes from a correction."""
    is_negative: bool = False
    """Whether there is only a rejected answer and the target is empty."""
    trajectories: tuple[str, ...] = ()
    """Ids of all trajectories that gave this turn."""
    corrections: tuple[str, ...] = ()
    """Ids of the corrections that gave the target."""
    recalled: tuple[str, ...] = ()
    """Memories that stood in the prompt of a model that acted well."""
    misled_by: tuple[str, ...] = ()
    """Memories that stood in the prompt of a model that gave the rejected answer."""
    weighed: frozenset[int] = frozenset()
    """Places in the history of what may be learnt from beside the target."""


def turns_of(
    trajectory: Trajectory,
    corrections: Sequence[Correction],
    tools: Sequence[ToolSpec],
    dropped: Counter[str],
) -> Iterator[Turn]:
    """Yield the turns of one trajectory; what is left out is counted by reason in `dropped`."""
    specs = Specs(tools)
    usable = [of_one_call(c, trajectory) for c in usable_corrections(trajectory, corrections)]
    whole = final_of(c for c in usable if c.step is None)
    steps, by_step = list(trajectory.steps), dict[int, list[Correction]]()
    if whole is not None and not whole.accepted:
        usable = [*usable, _of_last_words(whole, steps)]
        whole = None
    for correction in usable:
        if correction.step is not None:
            by_step.setdefault(correction.step, []).append(correction)
    if whole is None and not by_step and not trajectory.success:
        is_judged = trajectory.outcome is not None or trajectory.failure is not None
        dropped["failed without a correction" if is_judged else "not graded"] += 1
        return
    if whole is not None:
        yield from _corrected(trajectory, whole, None, (), specs, dropped)
    is_own_work = trajectory.success and whole is None
    refusals, heard = objections(corrections), _heard(trajectory)
    history: tuple[Message, ...] = ()
    for step in steps:
        refused = refusals.get(step.index, frozenset())
        final = final_of(by_step.get(step.index, ()))
        edits = [c for c in by_step.get(step.index, ()) if final is not None and c.source == final.source]
        if _are_edits(edits, step):
            yield from _own(
                trajectory,
                step,
                history,
                specs,
                dropped,
                edits=edits,
                refused=refused,
                is_success=is_own_work,
            )
        elif final is not None:
            yield from _corrected(trajectory, final, step, history, specs, dropped)
        elif is_own_work:
            yield from _own(trajectory, step, history, specs, dropped, refused=refused)
        history += _said(step, specs) + heard.get(step.index, ())


def _of_last_words(correction: Correction, steps: list[Step]) -> Correction:
    """Return an accepted answer to a whole run as a correction of the text that the run ended with.

    A run that ended otherwise gets an empty step at the end: the answer follows all that was done.
    """
    if not steps or steps[-1].reply.tool_calls or steps[-1].accepted_calls:
        index = steps[-1].index + 1 if steps else 0
        steps.append(Step(index=index, reply=Message(role="assistant")))
    return correction.model_copy(update={"step": steps[-1].index, "proposed": ()})


def _heard(trajectory: Trajectory) -> dict[int, tuple[Message, ...]]:
    """Return what the user said after a step, as later turns see it."""
    return {
        index: tuple(Message(role="user", content=text) for text in texts)
        for index, texts in user_turns(trajectory).items()
    }


def merge_turns(turns: Iterable[Turn], dropped: Counter[str]) -> list[Turn]:
    """Return turns in an order that depends on tasks and content alone, equal ones merged.

    Neither ids nor times of trajectories matter, so that two runs of the same work compile alike.
    """
    merged: dict[tuple[Any, ...], Turn] = {}
    for turn in sorted(turns, key=_order):
        task = turn.trajectory.task
        key = (task.suite, task.id, standing_before(turn), turn.target.content)
        other = merged.get(key)
        if other is not None:
            dropped["the same row again"] += 1
        merged[key] = turn if other is None else _union(other, turn)
    return list(merged.values())


def standing_before(turn: Turn) -> Standing:
    """Return all that stands before a turn, to compare it: the request, and what else was said."""
    task, earlier = turn.trajectory.task, turn.trajectory.earlier
    said = tuple((message.role, message.content) for message in (*earlier, *turn.history))
    return task.prompt, task.system, said


def _corrected(
    trajectory: Trajectory,
    correction: Correction,
    step: Step | None,
    history: tuple[Message, ...],
    specs: Specs,
    dropped: Counter[str],
) -> Iterator[Turn]:
    at = step or next(iter(trajectory.steps), None)
    turn = Turn(
        trajectory=trajectory,
        step=0 if step is None else step.index,
        history=history,
        target=Message(role="assistant", content=correction.accepted_answer, origin="person"),
        teacher=correction.source,
        is_correction=True,
        trajectories=(trajectory.id,),
        corrections=(correction.id,),
    )
    if not correction.accepted:
        yield replace(turn, rejected=_wrong(correction, at, turn.target, specs))
        return
    results = at.results if at is not None and at.accepted_calls == correction.accepted else ()
    for number, call in enumerate(correction.accepted):
        if number > len(results):  # what the tools would have answered is not known
            dropped["later call of a correction"] += len(correction.accepted) - number
            return
        target = specs.message(call, "person")
        if _is_offered(call, specs, dropped):
            wrong = _wrong(correction, at, target, specs) if number == 0 else None
            yield replace(turn, target=target, history=history, rejected=wrong)
        if number < len(results):
            history += _exchange(call, results[number], specs)


def _are_edits(corrections: Sequence[Correction], step: Step) -> bool:
    """Whether corrections are each about a single call among several that a step ran."""
    are_single = (len(c.proposed) == len(c.accepted) == 1 and _about(c, step) for c in corrections)
    return len(step.accepted_calls) > 1 and bool(corrections) and all(are_single)


def _about(correction: Correction, step: Step) -> str:
    """Return which call of a step a correction of one call is about, empty where none.

    It is the one that ran in place of the proposal; where the tool refused the proposal itself, that one.
    """
    ran = [call_text(call) for call in step.accepted_calls]
    proposed, accepted = call_text(correction.proposed[0]), call_text(correction.accepted[0])
    order = (proposed, accepted) if correction.source == "tool" else (accepted, proposed)
    return next((call for call in order if call in ran), "")


def _own(
    trajectory: Trajectory,
    step: Step,
    history: tuple[Message, ...],
    specs: Specs,
    dropped: Counter[str],
    *,
    edits: Sequence[Correction] = (),
    refused: frozenset[str] = frozenset(),
    is_success: bool = True,
) -> Iterator[Turn]:
    """Yield what was said in a step: a corrected call as it was accepted, the others as own work.

    Each call follows those that ran before it. Where the run was no success only corrected calls are targets,
    and nothing is that a person `refused`.
    """
    turn = Turn(
        trajectory=trajectory,
        step=step.index,
        history=history,
        target=step.reply,
        teacher=trajectory.model,
        trajectories=(trajectory.id,),
        recalled=trajectory.recalled,
    )
    if not step.accepted_calls:
        if step.reply.tool_calls:
            dropped["proposed call that was not accepted"] += 1
        elif refused and step.reply.content.strip():
            dropped[OBJECTED] += 1
        elif step.reply.content.strip():
            yield replace(turn, target=Message(role="assistant", content=step.reply.content, origin="model"))
        return
    by_call = {_about(each, step): each for each in sorted(edits, key=rank)}
    for call, result in _executed(step):
        edit = by_call.get(call_text(call))
        if edit is not None and _is_offered(edit.accepted[0], specs, dropped):
            target = specs.message(edit.accepted[0], "person")
            yield replace(
                turn, history=history, target=target, rejected=_wrong(edit, None, target, specs),
                teacher=edit.source, is_correction=True, corrections=(edit.id,), recalled=(),
            )  # fmt: skip
        elif edit is not None or not is_success:
            pass
        elif not refused.isdisjoint(("", call_text(call))):
            dropped[OBJECTED] += 1
        elif result is not None and not result.ok:
            dropped["call that failed on the way"] += 1
        elif _is_offered(call, specs, dropped):
            yield replace(turn, history=history, target=specs.message(call, "model"))
        history += _exchange(call, result, specs)


def spoken(trajectory: Trajectory, tools: Sequence[ToolSpec]) -> Iterator[tuple[Turn, bool]]:
    """Yield all that an agent said by itself, right or wrong, and whether the tool took it."""
    specs, heard = Specs(tools), _heard(trajectory)
    history: tuple[Message, ...] = ()
    for step in trajectory.steps:
        turn = Turn(
            trajectory=trajectory,
            step=step.index,
            history=history,
            target=step.reply,
            teacher=trajectory.model,
            trajectories=(trajectory.id,),
            recalled=trajectory.recalled,
        )
        for call, result in _executed(step):
            said = replace(turn, history=history, target=specs.message(call, "model"))
            yield said, result is None or result.ok
            history += _exchange(call, result, specs)
        if not step.accepted_calls:
            refused = step.reply.tool_calls[:1]
            content = step.reply.content
            if refused:
                yield replace(turn, target=specs.message(refused[0], "model")), False
            elif content.strip():
                yield replace(turn, target=Message(role="assistant", content=content, origin="model")), True
            history += _said(step, specs)
        history += heard.get(step.index, ())


def _said(step: Step, specs: Specs) -> tuple[Message, ...]:
    """Return what later turns see of a step: accepted calls with their results, or the text."""
    if step.accepted_calls:
        return tuple(m for call, result in _executed(step) for m in _exchange(call, result, specs))
    if step.reply.tool_calls or not step.reply.content:
        return ()
    return (Message(role="assistant", content=step.reply.content, origin="model"),)


def _executed(step: Step) -> Iterator[tuple[ToolCall, ToolResult | None]]:
    for number, call in enumerate(step.accepted_calls):
        yield call, step.results[number] if number < len(step.results) else None


def _exchange(call: ToolCall, result: ToolResult | None, specs: Specs) -> tuple[Message, ...]:
    said = specs.message(call, "model")
    if result is None:
        return (said,)
    answer = result.content if result.ok else f"error: {result.error}"
    return (said, Message(role="tool", content=answer, name=call.name, origin="tool"))


def _wrong(correction: Correction, step: Step | None, target: Message, specs: Specs) -> Message | None:
    """Return what the agent wanted to say; None where that is unknown or the same as the target."""
    proposed = correction.proposed or (step.reply.tool_calls if step is not None else ())
    if proposed:
        message = specs.message(proposed[0], "model")
    elif step is not None and step.reply.content:
        message = Message(role="assistant", content=step.reply.content, origin="model")
    else:
        return None
    return None if message.content == target.content else message


def _is_offered(call: ToolCall, specs: Specs, dropped: Counter[str]) -> bool:
    if specs.by_name and call.name not in specs.by_name:
        dropped["call of a tool that is not offered"] += 1
        return False
    return True


def _order(turn: Turn) -> tuple[Any, ...]:
    task = turn.trajectory.task
    wrong = turn.rejected.content if turn.rejected else ""
    request = (task.suite, task.id, task.prompt, task.system)
    return (*request, turn.trajectory.attempt, turn.step, turn.target.content, wrong, turn.teacher)


def _union(first: Turn, second: Turn) -> Turn:
    corrected = [turn for turn in (first, second) if turn.is_correction]
    said = max(corrected, key=lambda turn: SAY.get(turn.teacher, -1), default=first)
    return replace(
        first,
        teacher=said.teacher,
        rejected=first.rejected or second.rejected,
        is_correction=first.is_correction or second.is_correction,
        trajectories=_joined(first.trajectories, second.trajectories),
        corrections=_joined(first.corrections, second.corrections),
        recalled=_joined(first.recalled, second.recalled),
    )


def _joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *second]))
