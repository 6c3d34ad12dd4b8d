"""Lets the actor try a task with guidance in its prompt, and the task's own grader judge it."""

from __future__ import annotations

from agentkd.config import AgentSettings
from agentkd.protocols import Environment, Model, Suite, Views
from agentkd.schema import Message, Reply, Step, Task, ToolResult, Trajectory, content_id

__all__ = ["rehearse"]


def rehearse(
    task: Task,
    guidance: str,
    *,
    model: Model,
    suite: Suite,
    views: Views,
    settings: AgentSettings,
    purpose: str,
) -> Trajectory:
    """Return the graded attempt of `model` at a training task; nothing of it is stored.

    Args:
        task: What is to be done, anew in a world of its own.
        guidance: Text that stands where recalled memories stand; empty for an attempt without.
        model: Who acts.
        suite: World and grader of the task.
        views: Builds the prompt as agents see it.
        settings: Limit of steps, and whether every turn must be a call.
        purpose: What the calls are booked under.
    """
    environment = suite.environment(task)
    try:
        steps, answer = _turns(task, guidance, environment, model, views, settings, purpose)
    finally:
        environment.close()
    made = Trajectory(
        id=content_id("tra", "rehearsal", task.id, guidance, model.name),
        run_id="rehearsal",
        task=task,
        model=model.name,
        steps=tuple(steps),
        answer=answer,
    )
    return made.model_copy(update={"outcome": suite.grade(made)})


def _turns(
    task: Task,
    guidance: str,
    environment: Environment,
    model: Model,
    views: Views,
    settings: AgentSettings,
    purpose: str,
) -> tuple[list[Step], str]:
    tools = environment.tools
    choice = "none" if not tools else "required" if settings.force_tool_call else "auto"
    steps: list[Step] = []
    history: tuple[Message, ...] = ()
    reply = Reply()
    while len(steps) < settings.max_steps:
        prompt = views.prompt(
            task, tools=tools, history=history, memory=guidance, tool_docs=settings.tool_docs != "none"
        )
        reply = model.reply(prompt, tools, tool_choice=choice, purpose=purpose)
        results = tuple(environment.call(call) for call in reply.tool_calls)
        message = reply.to_message()
        steps.append(Step(index=len(steps), reply=message, accepted_calls=reply.tool_calls, results=results))
        if not reply.tool_calls or any(result.ends_task for result in results):
            break
        answers = [
            _answer(call.name, call.id, result)
            for call, result in zip(reply.tool_calls, results, strict=True)
        ]
        history = (*history, message, *answers)
    return steps, "" if reply.tool_calls else reply.text


def _answer(name: str, call_id: str, result: ToolResult) -> Message:
    text = result.content if result.ok else f"error: {result.error}"
    return Message(role="tool", content=text, tool_call_id=call_id, name=name, origin="tool")
