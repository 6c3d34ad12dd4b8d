"""record_node: a node that keeps a turn of anyone's StateGraph as a trajectory to learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentkd.agents.recorder import Recorder
from agentkd.graph.host import Host, check_host
from agentkd.graph.namespace import Asker
from agentkd.graph.notes import hits_of, shown_of, trial_of, withheld_of
from agentkd.graph.turn import Turn, as_read, read_turn
from agentkd.schema import Outcome, Scope, Trajectory, content_id
from agentkd.trust import heard_after

__all__ = ["Grade", "record_node", "store_turn", "user_of"]

Grade = Callable[[Trajectory], Outcome | None]
"""Judges a finished trajectory; None leaves it ungraded."""


def record_node(
    workspace: Host,
    *,
    namespace: Sequence[str] = (),
    scope: Scope | None = None,
    grade: Grade | None = None,
    messages_key: str = "messages",
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a node that stores what happened since the last human request; put it at the end of a turn.

    The same turn is stored once however often the node runs. A turn with an unanswered call stays open:
    its complete steps are kept, and it is finished by a later run of the node. Recalled notes are kept as
    memory, never as a source; what a person changed through `apply_decisions` becomes corrections.

    Args:
        workspace: An `agentkd.Workspace`.
        namespace: Whose turn it is, as in `recall_node`: what it teaches about them stays theirs.
        scope: The asker's scope in place of a namespace; its tenant owns what the turn teaches.
        grade: Judges a finished trajectory; without one memories gain no utility from it. What it teaches
            waits for a success of another user, where the scope or `user_id` of the graph's config names one.
        messages_key: Channel of the messages.
    """
    check_host(workspace)
    asker = Asker(namespace, scope)

    def record_turn(state: Mapping[str, Any]) -> dict[str, Any]:
        from langgraph.config import get_config

        config = get_config()
        asked = asker.scope(config, workspace.settings.memory.scope)
        store_turn(
            workspace, read_turn(workspace, state[messages_key], config), grade, user_of(config), asked
        )
        return {}

    return record_turn


def store_turn(
    host: Host,
    turn: Turn | None,
    grade: Grade | None = None,
    user: str = "",
    scope: Scope | None = None,
) -> bool:
    """Store a turn, with its recalls and corrections, once; False for what was stored before.

    A request that is gone on with after it was stored (another agent takes over), or answered anew (a thread
    is forked), is a further attempt: recalls and corrections count from the first step that is new.

    `user` says whose request it was: what different users' verified runs teach corroborates each other.
    `scope` is that of the asker; without one it is the scope that recall counted for, or the workspace's.
    """
    placed = None if turn is None else _placed(host, turn.trajectory)
    if turn is None or placed is None:
        return False
    trajectory, start = placed
    recorder = Recorder(host.ledger, host.hooks)
    hits, held = (hits_of(host, part(turn.recall)) for part in (shown_of, withheld_of))
    trial = trial_of(turn.recall)
    if scope is None or not scope.user:
        wide = scope or (trial.scope if trial is not None else host.settings.memory.scope)
        scope = wide.model_copy(update={"user": user or wide.user})
    trajectory = _after_the_last(host, trajectory.model_copy(update={"scope": scope}))
    if not trajectory.steps:
        recorder.begin(trajectory)
    for step in trajectory.steps:
        so_far = trajectory.model_copy(update={"steps": trajectory.steps[: step.index + 1]})
        if step.index < start:
            recorder.step(so_far, step)
            continue
        recorder.step(
            so_far,
            step,
            hits.get(step.index, []),
            turn.corrections(trajectory.id, step.index),
            withheld=held.get(step.index, []),
            trial=trial,
        )
    if not turn.is_complete or trajectory.failure is not None:
        return True
    outcome = grade(trajectory) if grade is not None else None
    recorder.finish(trajectory.model_copy(update={"outcome": outcome}))
    return True


def _placed(host: Host, trajectory: Trajectory) -> tuple[Trajectory, int] | None:
    """Return a turn under the id of its attempt, and its first new step; None where nothing is new."""
    known, id_, attempt, start = host.ledger.trajectories, trajectory.id, 0, 0
    while (same := known.n_same(id_, trajectory.steps)) is not None:
        if same == len(trajectory.steps):
            return None
        attempt, start = attempt + 1, max(start, same)
        id_ = content_id("tra", trajectory.id, attempt)
    return trajectory.model_copy(update={"id": id_, "attempt": attempt}), start


def _after_the_last(host: Host, trajectory: Trajectory) -> Trajectory:
    """Return a turn with what the turns before it had heard: a summary may stand for their messages now.

    Nothing comes over from another tenant's thread of the same name, and of what was revoked the tool alone.
    """
    known, run_id = host.ledger.trajectories, trajectory.run_id
    others = [*known.list(run_id=run_id, limit=1, latest=True), *known.unfinished(run_id)]
    own = [t for t in others if t.id != trajectory.id and t.scope.tenant == trajectory.scope.tenant]
    gone = host.ledger.revocations.trajectories() if own else {}
    heard = heard_after(*own, also=trajectory.heard)
    if trajectory.earlier:  # a summary in it may tell what no tool said
        spoke = {each.trajectory for each in heard}
        heard += tuple(as_read(t.id) for t in own if t.id not in spoke)
    if any(each.trajectory in gone for each in heard):
        trajectory = trajectory.model_copy(update={"earlier": ()})
    kept = [h.model_copy(update={"text": ""}) if h.trajectory in gone else h for h in heard]
    return trajectory.model_copy(update={"heard": heard_after(also=kept)})


def user_of(config: Mapping[str, Any]) -> str:
    """Return the user that a graph's config names: `user_id`; empty where it names none."""
    return str((config.get("configurable") or {}).get("user_id") or "")
