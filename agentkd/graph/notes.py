"""Recall for a conversation that is not ours: what was found for which step, and the notes made of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkd.agents.trial import Trial, TrialPolicy
from agentkd.graph.host import Host, check_host
from agentkd.graph.message import request_key, situation, text_of, turn_of
from agentkd.graph.namespace import Asker
from agentkd.memory.scope import sees
from agentkd.schema import Hit, Scope, Task, content_id, now

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from agentkd.ledger import Ledger

__all__ = ["Finder", "Found", "Recall", "hits_of", "ids_of_turn", "shown_of", "trial_of", "withheld_of"]

Found = dict[str, Any]
"""One recalled memory as plain JSON: `id`, `score`, the `step` that it was found for, `withheld`, and its
`text` where a recaller worded it anew."""

Recall = dict[str, Any]
"""What a turn recalled, as plain JSON: `found`, and the `trial` that says what of it is shown."""


_HIDDEN = ("candidate", "quarantined", "revoked", "tombstone")


class Finder:
    """Recalls from a workspace for whoever a call is made for; on trials, memories are withheld."""

    def __init__(
        self,
        workspace: Host,
        namespace: Sequence[str] = (),
        scope: Scope | None = None,
        k: int | None = None,
        checkpoint: str = "base",
    ) -> None:
        """Name whose memories are recalled, of a namespace, a scope or the workspace, and for what model."""
        check_host(workspace)
        self.host = workspace
        self._asker = Asker(namespace, scope)
        self._k = k
        self._checkpoint = checkpoint
        self._policy: tuple[Ledger, TrialPolicy] | None = None
        self._lock = threading.Lock()

    def find(self, messages: Sequence[BaseMessage], before: Recall, config: Mapping[str, Any]) -> Recall:
        """Return what is recalled for the present step, beside what was `before`; plugins may rank it."""
        turn, known = turn_of(messages), before.get("found", [])
        if not turn:
            return before
        self.host.ledger.items.drop_expired(now())
        hits: Sequence[Hit] = self.host.memory.recall(
            situation(turn), self._k, scope=self.scope(config), checkpoint=self._serving(),
            exclude=[found["id"] for found in known],
        )  # fmt: skip
        if not hits:
            return before
        step, prompt = sum(message.type == "ai" for message in turn), text_of(turn[0])
        task = Task(id=content_id("adh", prompt), prompt=prompt)
        hits = self._fitting(before, self.host.hooks.ranked(task, hits), config)
        if not hits:
            return before
        _, trajectory_id = ids_of_turn(messages, config)
        policy = self._trials()
        trial = trial_of(before) or policy.plan(trajectory_id, task)
        trial, shown, withheld = policy.divide(trial, hits, trajectory_id)
        found = [*known, *_as_found(shown, step, False), *_as_found(withheld, step, True)]
        return {"found": found, "trial": trial.model_dump(mode="json")} if found else before

    def render(self, recall: Recall, config: Mapping[str, Any]) -> str:
        """Return the notes of what is shown: data between fixed delimiters; empty for nothing."""
        return self.host.memory.render(self._shown(recall, config))

    def _shown(self, recall: Recall, config: Mapping[str, Any]) -> list[Hit]:
        """Return the hits that are shown: those that the asker may see, and that nobody took back since."""
        asker = self.scope(config) or self.host.settings.memory.scope
        hits = [hit for hits in hits_of(self.host, shown_of(recall)).values() for hit in hits]
        return [h for h in hits if sees(asker, h.memory.scope) and h.memory.status not in _HIDDEN]

    def _fitting(self, before: Recall, hits: Sequence[Hit], config: Mapping[str, Any]) -> list[Hit]:
        """Return the hits that the notes still have room for: what is left out of them is never seen."""
        shown = self._shown(before, config)
        known = {hit.memory.id for hit in shown}
        return [h for h in self.host.memory.fitting([*shown, *hits]) if h.memory.id not in known]

    def scope(self, config: Mapping[str, Any]) -> Scope | None:
        """Return the asker's scope in a call; None is the workspace's own."""
        return self._asker.scope(config, self.host.settings.memory.scope)

    def _serving(self) -> str:
        """Return the checkpoint behind the graph's model, or `base`; raises NotFoundError."""
        known, name = self.host.ledger.checkpoints, self._checkpoint
        if name == "student":
            serving = known.serving()
            return "base" if serving is None else serving.name
        return name if name == "base" else known.get(name).name

    def _trials(self) -> TrialPolicy:
        """Return what decides on trials: the users of a namespace are counted together.

        It is made once, so that it says once that recall is off; a workspace opened again gets another one.
        """
        ledger, settings = self.host.ledger, self.host.settings
        with self._lock:
            if self._policy is None or self._policy[0] is not ledger:
                scope, say = self._asker.fixed or settings.memory.scope, logging.getLogger(__name__).warning
                policy = TrialPolicy(
                    ledger, settings.memory, scope, seed=settings.cycle.seed, say=say, k=self._k
                )
                self._policy = ledger, policy
            return self._policy[1]


def ids_of_turn(messages: Sequence[BaseMessage], config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the ids of a turn's run and trajectory: the thread and the request name them."""
    thread, key = (config.get("configurable") or {}).get("thread_id"), request_key(messages)
    run_id = content_id("run", str(thread) if thread is not None else key)
    return run_id, content_id("tra", run_id, key)


def shown_of(recall: Recall) -> list[Found]:
    """Return what was shown to the model."""
    return [found for found in recall.get("found", []) if not found["withheld"]]


def withheld_of(recall: Recall) -> list[Found]:
    """Return what a trial kept back."""
    return [found for found in recall.get("found", []) if found["withheld"]]


def trial_of(recall: Recall) -> Trial | None:
    """Return the trial of a turn; None before anything was recalled."""
    told = recall.get("trial")
    return None if told is None else Trial.model_validate(told)


def hits_of(host: Host, found: Sequence[Found]) -> dict[int, list[Hit]]:
    """Return the hits of every step, best first as they were found."""
    memories = {memory.id: memory for memory in host.ledger.memories.get_many(one["id"] for one in found)}
    hits: dict[int, list[Hit]] = {}
    for one in found:
        if one["id"] in memories:
            text = str(one.get("text", ""))
            hit = Hit(memory=memories[one["id"]], score=float(one["score"]), text=text)
            hits.setdefault(int(one["step"]), []).append(hit)
    return hits


def _as_found(hits: Sequence[Hit], step: int, withheld: bool) -> list[Found]:
    return [
        {"id": hit.memory.id, "score": round(hit.score, 6), "step": step, "withheld": withheld}
        | ({"text": hit.text} if hit.text else {})
        for hit in hits
    ]
