"""Five groups of tasks for `continual.py`: slices of `bfcl-live` by topic, and `llb-db`; a plugin.

A topic is a set of tools; a slice offers all 26 tools and asks for its own. Splits are those of the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agentkd_bfcl import SUGGESTED, BfclLiveSettings
from agentkd_bfcl import build_suite as build_bfcl
from agentkd_bfcl.data import read_rows
from agentkd_llb import LlbDbSettings
from agentkd_llb import build_suite as build_llb

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component
from agentkd.protocols import Environment, Kit, Suite
from agentkd.schema import Outcome, Task, Trajectory

_TOOLS = {
    "shows": """Events_3_FindEvents Media_3_FindMovies Movies_1_BuyMovieTickets Movies_1_FindMovies
        Movies_3_FindMovies""",
    "music": """Music_3_LookupMusic Music_3_PlayMedia Payment_1_MakePayment Payment_1_RequestPayment
        Weather_1_GetWeather""",
    "travel": """Buses_3_FindBus Flights_4_SearchOnewayFlight Homes_2_FindHomeByArea Hotels_2_SearchHouse
        Hotels_4_SearchHotel RentalCars_3_GetCarsAvailable Trains_1_FindTrains Travel_1_FindAttractions""",
    "services": """Restaurants_2_FindRestaurants Services_1_FindProvider Services_4_FindProvider
        add_postgres_server get_service_providers inventory_management list_servers
        version_api.VersionApi.get_version""",
}
TOPICS = {topic: frozenset(names.split()) for topic, names in _TOOLS.items()}
GROUPS = ("shows", "music", "travel", "sql", "services")
"""In the order in which they are taught."""


class Slice:
    """The tasks of a suite that `wanted` names, as a suite of its own."""

    def __init__(self, name: str, suite: Suite, wanted: Callable[[Task], bool]) -> None:
        self.name = name
        self._suite = suite
        self._tasks = {
            split: tuple(
                task.model_copy(update={"suite": name}) for task in suite.tasks(split) if wanted(task)
            )
            for split in ("train", "holdout")
        }

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {split: len(tasks) for split, tasks in self._tasks.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return every k-th task of a split, so that near neighbours in the file are thinned alike."""
        tasks = self._tasks[split]
        if n is None or n >= len(tasks):
            return tasks
        return tuple(tasks[(i * len(tasks)) // n] for i in range(n))

    def environment(self, task: Task) -> Environment:
        """Make the world of a task."""
        return self._suite.environment(task)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge a trajectory as the suite does."""
        return self._suite.grade(trajectory)

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Any]:
        """Return nothing: a group is compared with itself over time."""
        return ()


def _bfcl(topic: str) -> Callable[[BfclLiveSettings, Kit], Slice]:
    def build(settings: BfclLiveSettings, kit: Kit) -> Slice:
        rows = read_rows(kit.fetch(settings.source, sha256=settings.sha256))
        tool_of = {row.id: row.tool for row in rows}
        return Slice(topic, build_bfcl(settings, kit), lambda task: tool_of[task.id] in TOPICS[topic])

    return build


def _sql(settings: LlbDbSettings, kit: Kit) -> Slice:
    return Slice("sql", build_llb(settings, kit), lambda task: True)


@hookimpl
def components() -> Iterator[Component[Any]]:
    """Offer the five groups as suites."""
    for topic in TOPICS:
        summary = f"Requests of `bfcl-live` about {topic}."
        yield Component("suite", topic, summary, _bfcl(topic), BfclLiveSettings, suggests=SUGGESTED)
    yield Component("suite", "sql", "Requests of `llb-db`.", _sql, LlbDbSettings, suggests=SUGGESTED)
