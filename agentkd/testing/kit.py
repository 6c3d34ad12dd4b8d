"""A kit for components under test: settings, a cache folder, models by role and an embedder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.config import Settings
from agentkd.errors import ConfigError, ModelError
from agentkd.protocols import Embedder, Model, Progress, Sandbox, SilentProgress, Suite, Views
from agentkd.schema import Standing, Trajectory, Usage, Use

if TYPE_CHECKING:
    from agentkd.protocols import Kit

__all__ = ["FakeKit"]


class FakeKit:
    """Implements `agentkd.protocols.Kit` with what it is given; the embedder defaults to hashing."""

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        embedder: Embedder | None = None,
        settings: Settings | None = None,
        sources: Mapping[str, Path] | None = None,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
        suites: Mapping[str, Suite] | None = None,
        trajectories: Sequence[Trajectory] = (),
        standings: Iterable[Standing] = (),
        uses: Mapping[str, Sequence[Use]] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.cache_dir = cache_dir or Path(tempfile.mkdtemp(prefix="agentkd-kit-"))
        self.progress: Progress = progress or SilentProgress()
        self.costs: list[list[Usage]] = []
        """What each request to a paid service has cost."""
        self._models = dict(models or {})
        self._sources = dict(sources or {})
        self._embedder = embedder
        self._suites = dict(suites or {})
        self._trajectories = {trajectory.id: trajectory for trajectory in trajectories}
        self._uses = dict(uses or {})
        self._standings = {standing.memory_id: standing for standing in standings}

    def fetch(self, source: str, sha256: str | None = None) -> Path:
        """Return the folder that was given for `source`, or that a `path:` names; nothing is downloaded."""
        if source in self._sources:
            return self._sources[source]
        if source.startswith("path:"):
            return Path(source.removeprefix("path:"))
        raise ModelError(f"the test gave no folder for `{source}`", hint="pass it in `sources`")

    def model(self, role: str) -> Model:
        """Return the model of a role."""
        if role not in self._models:
            raise ConfigError(f"no model plays the role `{role}`", hint="pass it in `models`", role=role)
        return self._models[role]

    def embedder(self) -> Embedder:
        """Return the embedder."""
        if self._embedder is None:
            from agentkd.embedders.hashing import HashingEmbedder

            self._embedder = HashingEmbedder()
        return self._embedder

    def paying(self, name: str, expected: Usage, purpose: str) -> AbstractContextManager[list[Usage]]:
        """Return a list that is kept in `costs`; nothing is limited."""
        self.costs.append([])
        return nullcontext(self.costs[-1])

    def thresholds(self) -> Mapping[str, float]:
        """Return the thresholds of an embedder that nobody has measured, but for those that are set."""
        from agentkd.memory.threshold import Thresholds

        return Thresholds().overruled_by(self.settings.memory).values()

    def suite(self, name: str) -> Suite:
        """Return a suite."""
        if name not in self._suites:
            raise ConfigError(f"there is no suite `{name}`", hint="pass it in `suites`")
        return self._suites[name]

    def views(self) -> Views:
        """Return the prompt builder that agents use."""
        from agentkd.agents import PromptBuilder

        return PromptBuilder(self.settings.agent)

    def sandbox(self) -> Sandbox:
        """Raise ConfigError: the tests of code tools bring their own sandbox."""
        raise ConfigError("the kit has no sandbox", hint="hand one to the tool itself")

    def trajectories(self, ids: Iterable[str]) -> Sequence[Trajectory]:
        """Return the trajectories that were given."""
        return [self._trajectories[id_] for id_ in ids if id_ in self._trajectories]

    def standings(self, ids: Iterable[str]) -> Mapping[str, Standing]:
        """Return the standings that were given."""
        return {id_: self._standings[id_] for id_ in ids if id_ in self._standings}

    def uses(self, ids: Iterable[str]) -> Mapping[str, Sequence[Use]]:
        """Return the uses that were given; none for other ids."""
        return {id_: self._uses.get(id_, ()) for id_ in ids}


def _keeps_the_promise(kit: FakeKit) -> Kit:
    return kit
