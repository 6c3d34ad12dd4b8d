"""Who acts: what serves, or per request the student whose training rows are near, or the base with memories.

A student's keys are the requests of the rows that it was trained on and the keys of the memories under them.
What counts as near is calibrated per student: its rows, each against the rows of other tasks, must mostly be
let in, and what it was never taught must mostly be kept out (the threshold with the largest sum of both
shares, Youden's index).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agentkd.cycle.parts import ROUTED, Parts, checkpoint_of
from agentkd.cycle.replay import ancestor_datasets
from agentkd.cycle.roles import booked
from agentkd.errors import CheckpointError, ConfigError
from agentkd.protocols import Model
from agentkd.schema import Checkpoint, Route, content_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Acting", "AdapterRouter", "ServingStudent", "nearest", "routable", "who_acts", "who_stays"]

_QUANTILE = 0.1
"""Share of its own rows that a student may lose to the base where nothing else is known."""


def routable(parts: Parts) -> list[Checkpoint]:
    """Return the students that requests are shared out among, the newest promotion first.

    Those that `[models.routing] checkpoints` names, else all that were promoted and not taken back. Raises
    ConfigError for a named one on another base, CheckpointError for a tainted one.
    """
    named = parts.settings.models.routing.checkpoints
    base_id = parts.student_files.base_id
    if not named:
        known = [parts.checkpoint(name) for name in reversed(parts.ledger.checkpoints.promoted())]
        return [c for c in known if c.base_id == base_id and c.status != "tainted"]
    found = [parts.checkpoint(name) for name in dict.fromkeys(named)]
    for checkpoint in found:
        if checkpoint.base_id != base_id:
            raise ConfigError(
                f"`[models.routing]` names `{checkpoint.name}`, which was trained on another base",
                hint="`agentkd checkpoints transfer` carries it over",
                key="models.routing.checkpoints",
            )
        if checkpoint.status == "tainted":
            raise CheckpointError(
                f"`[models.routing]` names `{checkpoint.name}`, which rests on a memory that was revoked",
                hint="leave it out until a cycle has trained without that memory",
            )
    return found


class ServingStudent:
    """What serves, asked anew for every run: `agentkd.agents.Serving`."""

    def __init__(self, parts: Parts, stays: str = "") -> None:
        """Let what serves act, or for good what served at a time: the checkpoint `stays`."""
        self._parts = parts
        self._stays = stays

    def checkpoint(self) -> str:
        """Return what serves now: a checkpoint's name, or `base`."""
        return self._stays or checkpoint_of(self._parts.resolve("student"))

    def model(self, checkpoint: str) -> Model:
        """Return the model of a checkpoint, or the base; all of them share one set of weights."""
        return self._parts.model("base" if checkpoint == "base" else f"agentkd/{checkpoint}")

    def aside(self, text: str, checkpoint: str) -> Route | None:
        """Return the route to the base where a tainted checkpoint stands aside on a request."""
        return self._parts.aside.route(text, checkpoint)


@dataclass(frozen=True)
class Acting:
    """Who acts in the runs of an agent."""

    model: Model
    """The one model, or what stands in where each run asks anew."""
    checkpoint: str = "base"
    """Checkpoint behind it."""
    router: AdapterRouter | None = None
    """Chooses a student per request."""
    serving: ServingStudent | None = None
    """Says per run which student serves."""


def who_stays(parts: Parts, spec: str) -> Acting:
    """Return who acts in all of many runs: behind `student` what serves now, whatever comes to serve."""
    resolved = parts.resolve(spec)
    if parts.role_model(spec) != "student":
        return who_acts(parts, resolved)
    name = checkpoint_of(resolved)
    return Acting(parts.model(resolved), name, serving=ServingStudent(parts, stays=name))


def who_acts(parts: Parts, spec: str | Model | Acting) -> Acting:
    """Return who acts behind a model, a role or a model string; behind `student` it may change run by run."""
    if isinstance(spec, Acting):
        return spec
    if not isinstance(spec, str):
        return Acting(booked(parts, spec))
    named, resolved = parts.role_model(spec), parts.resolve(spec)
    if resolved == ROUTED:
        return Acting(parts.model("base"), router=AdapterRouter(parts))
    serving = ServingStudent(parts) if named == "student" else None
    return Acting(parts.model(resolved), checkpoint_of(resolved), serving=serving)


def nearest(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> tuple[float, int]:
    """Return the cosine and the place of the nearest of some unit vectors, `[keys, dimension]`."""
    cosines = vectors @ vector
    at = int(cosines.argmax())
    return round(float(cosines[at]), 6), at


@dataclass(frozen=True)
class _Student:
    """One student's keys, and how near a request must be to one of them."""

    name: str
    keys: Sequence[str]
    vectors: NDArray[np.float32]
    """Unit vectors, `[keys, dimension]`."""
    threshold: float

    def nearest(self, vector: NDArray[np.float32]) -> tuple[float, str]:
        score, at = nearest(self.vectors, vector)
        return score, self.keys[at]


class AdapterRouter:
    """Chooses a student per request: `agentkd.agents.Router`; safe to use from several threads.

    Keys are read and embedded on first use, and anew once other students may be chosen.
    """

    def __init__(self, parts: Parts) -> None:
        """Raise at once what `routable` would raise at the first request."""
        self._parts = parts
        self._lock = threading.Lock()
        self._known: tuple[tuple[str, ...], list[_Student]] = (), []
        routable(parts)

    @property
    def id(self) -> str:
        """Content hash of all that decides a choice, and of what each student no longer recalls."""
        settings, memories = self._parts.settings.models.routing, self._parts.ledger.memories
        names = self.names
        retired = {
            name: sorted(id_ for id_, status in memories.status_for(name).items() if status == "retired")
            for name in names
        }
        return content_id("rtr", list(names), settings, self._parts.embedder().fingerprint, retired)

    @property
    def names(self) -> tuple[str, ...]:
        """The students of this moment, the newest promotion first: none that was taken back or tainted."""
        return tuple(checkpoint.name for checkpoint in routable(self._parts))

    def choose(self, text: str) -> Route:
        """Return the student with the nearest key that is near enough; the newest one at a tie."""
        students = self._students()
        if not students:
            return Route()
        (vector,) = self._parts.embedder().embed([text])
        found = [(*student.nearest(vector), student) for student in students]
        fit = [each for each in found if each[0] >= each[2].threshold]
        score, key, student = max(fit or found, key=lambda each: each[0])
        return Route(
            checkpoint=student.name if fit else "base",
            score=score,
            threshold=student.threshold,
            key=key,
            scores={each[2].name: each[0] for each in found},
        )

    def model(self, checkpoint: str) -> Model:
        """Return the model of a student, or the base; all of them share one set of weights."""
        return self._parts.model("base" if checkpoint == "base" else f"agentkd/{checkpoint}")

    def _students(self) -> list[_Student]:
        names = self.names
        with self._lock:
            if self._known[0] != names:
                keyed = {name: list(_keys(self._parts, name)) for name in names}
                self._known = names, [self._student(name, keyed) for name in names if keyed[name]]
            return self._known[1]

    def _student(self, name: str, keyed: dict[str, list[tuple[str, str]]]) -> _Student:
        keys = [key for key, _ in keyed[name]]
        vectors = self._embedded(keys)
        told = self._parts.settings.models.routing.min_score
        if told is not None:
            return _Student(name, keys, vectors, told)
        own = _between_tasks(vectors, [task for _, task in keyed[name]])
        strange = [key for other, pairs in keyed.items() if other != name for key, _ in pairs]
        others = self._embedded(sorted(set(strange) - set(keys)))
        away = (others @ vectors.T).max(axis=1) if len(others) else np.zeros(0, dtype=np.float32)
        floor = self._parts.thresholds()["min_score"]
        return _Student(name, keys, vectors, max(floor, _threshold(own, away)))

    def _embedded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, 1), dtype=np.float32)
        return self._parts.embedder().embed(list(texts))


def _keys(parts: Parts, name: str) -> Iterator[tuple[str, str]]:
    """Yield every distinct key of a student with the group of tasks that it belongs to."""
    from agentkd.memory.projection import key_texts

    seen: set[str] = set()
    groups: dict[str, str] = {}
    for dataset_id in ancestor_datasets(parts, name):
        rows = parts.ledger.datasets.rows(dataset_id, "train")
        sources = dict.fromkeys(id_ for row in rows for id_ in row.provenance.trajectories[:1])
        tasks = {found.task.id: found.task for found in parts.trajectories(sources)}
        for row in rows:
            task = tasks.get(row.task_id)
            group = task.group or task.id if task is not None else row.task_id
            groups.update(dict.fromkeys(row.provenance.memories, group))
            if task is not None and task.prompt not in seen:
                seen.add(task.prompt)
                yield task.prompt, group
    for memory in parts.ledger.memories.get_many(groups):
        for text in key_texts(memory).values():
            if text not in seen:
                seen.add(text)
                yield text, groups[memory.id]


def _between_tasks(vectors: NDArray[np.float32], tasks: Sequence[str]) -> NDArray[np.float32]:
    """Return the cosine of every key and the nearest one of another task."""
    numbers: dict[str, int] = {}
    at = np.asarray([numbers.setdefault(task, len(numbers)) for task in tasks])
    cosines = vectors @ vectors.T
    cosines[at[:, None] == at[None, :]] = -1.0
    nearest: NDArray[np.float32] = cosines.max(axis=1)
    return nearest[nearest > -1.0]


def _threshold(own: NDArray[np.float32], away: NDArray[np.float32]) -> float:
    """Return what a cosine must reach to be let in; 1 where nothing is known of the student's own rows."""
    if not len(own):
        return 1.0
    if not len(away):
        return round(float(np.quantile(own, _QUANTILE)), 6)
    cuts = np.unique(np.concatenate([own, away]))
    let_in = np.asarray([(own >= cut).mean() + (away < cut).mean() for cut in cuts])
    return round(float(cuts[int(let_in.argmax())]), 6)
