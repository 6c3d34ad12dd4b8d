"""Workspace: the object an application holds; every command of the CLI wraps one of its methods."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentkd import hookspecs
from agentkd.config import CONFIG_NAME, Settings, load_settings
from agentkd.errors import ConfigError, DataError
from agentkd.plugins import Hooks, Registry, open_host
from agentkd.protocols import Model, Progress, SilentProgress, Tool
from agentkd.schema import (
    Checkpoint,
    Correction,
    CycleReport,
    DatasetCard,
    Evaluation,
    PhaseReport,
    ToolCall,
    TrainPlan,
    Trajectory,
    content_id,
)

if TYPE_CHECKING:
    from agentkd.agents import Agent, RunSummary
    from agentkd.ledger import Ledger
    from agentkd.ledger.lineage import LineageGraph
    from agentkd.memory import MemoryStore

__all__ = ["Workspace"]

FOLDERS = ("datasets", "checkpoints", "cycles", "skills")

TEMPLATE = """\
# Settings of this workspace; `agentkd config show` prints all of them with their defaults.

[roles]
student = {student}
actor = {actor}

[cycle]
suite = {suite}
"""


class Workspace:
    """A folder with a ledger, memories, datasets, checkpoints and reports.

    Opening one is cheap: parts are built when they are first used. Use it as a context manager, or
    call `close`, to release the index for other processes.
    """

    def __init__(
        self,
        root: str | Path = ".",
        *,
        settings: Mapping[str, Any] | None = None,
        assignments: Iterable[str] = (),
        progress: Progress | None = None,
        plugins: Iterable[object] = (),
    ) -> None:
        """Open a workspace folder, making it where it does not exist.

        Args:
            root: The folder; `~` is expanded.
            settings: Nested settings with the last word over file and environment.
            assignments: `a.b=c` texts, as of `--set`.
            progress: Where progress is shown; nothing by default.
            plugins: Plugin objects of the application itself, besides the installed ones.

        Raises:
            ConfigError: the settings are wrong.
            PluginError: a plugin failed, named.
        """
        from agentkd.cycle.parts import Parts
        from agentkd.models.source import default_cache_dir

        self.root = Path(root).expanduser().resolve()
        told = list(assignments)
        loaded, host = open_host(
            lambda suggested: load_settings(
                self.root, assignments=told, overrides=settings, suggested=suggested
            )
        )
        for plugin in plugins:
            host.add(plugin, getattr(plugin, "__name__", type(plugin).__name__))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the workspace `{self.root}`: {error.strerror}") from error
        self.parts = Parts(self.root, loaded, host, progress or SilentProgress(), default_cache_dir())

    @classmethod
    def create(
        cls, root: str | Path, *, suite: str = "", student: str = "", actor: str = "", force: bool = False
    ) -> Workspace:
        """Make a workspace folder with an `agentkd.toml`; refuses one that has it unless `force`."""
        folder = Path(root).expanduser().resolve()
        from agentkd.cycle.report import write_whole

        config = folder / CONFIG_NAME
        if config.exists() and not force:
            raise ConfigError(f"`{config}` exists already", hint="choose another folder or pass `--force`")
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        roles = Settings().roles
        named = {"student": student or roles.student, "actor": actor or roles.actor, "suite": suite}
        quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in named.items()}
        write_whole(config, TEMPLATE.format(**quoted))
        return cls(folder)

    @property
    def settings(self) -> Settings:
        """Settings in force."""
        return self.parts.settings

    @property
    def ledger(self) -> Ledger:
        """The system of record."""
        return self.parts.ledger

    @property
    def memory(self) -> MemoryStore:
        """Memories: recall, history, revoke, audit, rebuild."""
        return self.parts.memory

    @property
    def hooks(self) -> Hooks:
        """Typed hook calls."""
        return self.parts.hooks

    @property
    def registry(self) -> Registry:
        """Components by kind and name."""
        return self.parts.registry

    @property
    def plugins(self) -> dict[str, str]:
        """Loaded plugins and their versions."""
        return dict(self.parts.host.versions)

    def model(self, spec: str = "actor") -> Model:
        """Return the model of a role or model string."""
        return self.parts.model(spec)

    def litellm_provider(self) -> Callable[[], None]:
        """Let `litellm.completion(model="agentkd/<checkpoint>")` reach the students of this workspace.

        `agentkd/student` is what serves, `agentkd/base` the bare base. Returns a function that takes the
        provider away again.
        """
        from agentkd.models.provider import register

        return register(lambda name: self.model(name if name in ("student", "base") else f"agentkd/{name}"))

    def agent(
        self,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        *,
        name: str = "agent",
        instructions: str = "",
        model: str | Model = "actor",
        recall: bool = True,
        interrupt_on: Sequence[str] = (),
        checkpointer: Any = None,
    ) -> Agent:
        """Make an agent over your own tools.

        Args:
            tools: Functions decorated with `@agentkd.tool`, plain typed functions, or Tool objects.
            name: Name that memories and trajectories carry.
            instructions: System instructions; empty takes those of the settings.
            model: Role, model string such as `openai/gpt-5-mini`, or a Model object.
            recall: Whether memories are recalled.
            interrupt_on: Names of tools whose calls wait for a person.
            checkpointer: Keeps waiting runs over restarts, such as `agents.open_checkpointer(file)`.
        """
        from agentkd.agents import Recorder
        from agentkd.tools import ToolBox, read_skill

        changes: dict[str, Any] = {}
        if instructions:
            changes["instructions"] = instructions
        if not recall:
            changes["recall"] = "off"
        skills = self.parts.skills()
        offered = [*tools, read_skill(skills)] if skills.names else list(tools)
        return self.parts.agent(
            model,
            lambda task: ToolBox(offered),
            name=name,
            recaller=self.memory if recall else None,
            recorder=Recorder(self.ledger, self.hooks),
            changes=changes,
            interrupt_on=interrupt_on,
            checkpointer=checkpointer,
        )

    def run(
        self, suite: str | None = None, split: str | None = None, n: int | None = None, model: str = "actor"
    ) -> RunSummary:
        """Run the actor over a split of a suite; calling it again goes on where it was cut off."""
        from agentkd.cycle.stage import run_key, run_stage

        cycle = self.settings.cycle
        chosen = self.parts.suite(suite or cycle.suite)
        tasks = chosen.tasks(split or cycle.split, n if n is not None else cycle.n, cycle.seed)
        uses_memory = self.settings.agent.recall != "off"
        run_id = run_key(self.parts, "run", chosen.name, tasks, model, uses_memory, cycle.seed)
        return run_stage(
            self.parts, suite=chosen, tasks=tasks, run_id=run_id, model=model, uses_memory=uses_memory,
            label="run", attempts=self.settings.run.attempts,
        )  # fmt: skip

    def correct(
        self,
        run: Trajectory | str,
        text: str = "",
        *,
        call: ToolCall | Mapping[str, Any] | None = None,
        answer: str = "",
        step: int | None = None,
    ) -> Correction:
        """Store what a person says about a run; `distill` turns it into a memory.

        Args:
            run: The trajectory or its id.
            text: What should be done another way, in plain words.
            call: The tool call that would have been right.
            answer: The answer that would have been right.
            step: Index of the corrected turn; None for the whole run.
        """
        trajectory = run if isinstance(run, Trajectory) else self.ledger.trajectories.get(run)
        if not (text or call or answer):
            raise DataError(
                "a correction needs a text, a call or an answer", hint="say what should be different"
            )
        accepted = () if call is None else (call if isinstance(call, ToolCall) else ToolCall(**call),)
        proposed = trajectory.steps[step].reply.tool_calls if step is not None and trajectory.steps else ()
        correction = Correction(
            id=content_id("cor", trajectory.id, step, "person", text, accepted, answer),
            trajectory_id=trajectory.id,
            step=step,
            text=text,
            source="person",
            kind="parameter" if accepted else "answer" if answer else "plan",
            proposed=proposed,
            accepted=accepted,
            accepted_answer=answer,
        )
        self.ledger.corrections.add(correction)
        self.hooks.ask(hookspecs.after_correction, correction=correction)
        return correction

    def distill(self, run_id: str | None = None) -> PhaseReport:
        """Distil the trajectories of a run, or of all training splits, into memories."""
        import time

        from agentkd.cycle.stage import distill_stage

        start = time.perf_counter()
        found = self.ledger.trajectories.list(run_id=run_id)
        result = distill_stage(self.parts, [t for t in found if not t.task.is_held_out])
        return PhaseReport(
            name="distill", key=content_id("pha", "distill", [t.id for t in found]), status="done",
            summary=result.summary, output=result.output, seconds=time.perf_counter() - start,
        )  # fmt: skip

    def compile(self, suite: str | None = None) -> DatasetCard:
        """Compile trajectories and memories into a dataset of training rows."""
        from agentkd.cycle.stage import compile_stage

        return compile_stage(self.parts, suite=suite or self.settings.cycle.suite or None)

    def train(
        self, dataset_id: str | None = None, *, go_on_from: str = "", replay: Sequence[str] = ()
    ) -> Checkpoint:
        """Train a student on a dataset (the newest by default); a killed training goes on."""
        from agentkd.cycle.stage import checkpoint_name, train_stage
        from agentkd.cycle.training import dataset_to_train

        dataset_id = dataset_to_train(self.parts, dataset_id, replay)
        key = content_id("trn", dataset_id, self.settings.train, self.parts.student_files.base_id, go_on_from)
        return train_stage(self.parts, dataset_id, checkpoint_name(self.parts, key), go_on_from)

    def plan_training(
        self, dataset_id: str | None = None, *, go_on_from: str = "", replay: Sequence[str] = ()
    ) -> TrainPlan:
        """Return what `train` would take; starts nothing."""
        from agentkd.cycle.training import plan_training

        return plan_training(self.parts, dataset_id, go_on_from, replay)

    def evaluate(
        self, checkpoint: str | None = None, split: str | None = None, n: int | None = None
    ) -> Evaluation:
        """Compare base, memory and a checkpoint (the newest by default) on held-out tasks."""
        from agentkd.cycle.stage import evaluate_stage

        known = self.checkpoints()
        name = checkpoint if checkpoint is not None else (known[-1].name if known else "")
        if name:
            self.parts.checkpoint(name)
        serving = self.ledger.checkpoints.serving()
        settings, cycle = self.settings.evaluate, self.settings.cycle
        return evaluate_stage(
            self.parts, suite=self.parts.suite(cycle.suite), split=split or settings.split,
            n=n if n is not None else settings.n, seed=cycle.seed, candidate=name,
            serving=serving.name if serving else "base",
        )  # fmt: skip

    def cycle(self, *, rounds: int | None = None) -> CycleReport:
        """Run whole cycles; one that was cut off is finished first. Returns the last report."""
        from agentkd.cycle import run_cycle

        count = rounds if rounds is not None else self.settings.cycle.rounds
        if count < 1:
            raise ConfigError("`rounds` must be at least 1", key="cycle.rounds")
        for number in range(count):
            report = run_cycle(self.parts)
            if number + 1 < count and report.verdict is None:
                break
        return report

    def report(self, number: int | None = None) -> CycleReport:
        """Return the report of a cycle, the newest by default."""
        from agentkd.cycle.report import read_report

        return read_report(self.root, number)

    def report_path(self, number: int | None = None) -> Path:
        """Return the path of `report.html`."""
        from agentkd.cycle.report import latest_number, report_folder

        return (
            report_folder(self.root, latest_number(self.root) if number is None else number) / "report.html"
        )

    def trajectories(self, **query: Any) -> list[Trajectory]:
        """Return trajectories, oldest first; keywords of `ledger.trajectories.list`."""
        return self.ledger.trajectories.list(**query)

    def datasets(self) -> list[DatasetCard]:
        """Return the datasets, oldest first."""
        return self.ledger.datasets.list()

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints, oldest first, with their present status."""
        return self.ledger.checkpoints.list()

    def promote(self, name: str, *, force: bool = False) -> str:
        """Let a checkpoint serve; one that the gate refused needs `force`. Returns what served before.

        Raises CheckpointError where its files are damaged or not safe, whatever `force` says.
        """
        from agentkd.hf import check_files

        checkpoint = self.parts.checkpoint(name)
        check_files(self.parts.checkpoint_folder(name))
        if checkpoint.status in ("rejected", "tainted") and not force:
            raise ConfigError(
                f"checkpoint `{name}` is {checkpoint.status}",
                hint="pass `--force` to let it serve all the same",
            )
        serving = self.ledger.checkpoints.serving()
        previous = serving.name if serving else "base"
        if previous != name:
            self.ledger.checkpoints.promote(name, force=force)
            self.hooks.ask(hookspecs.after_promote, checkpoint=name, previous=previous)
        return previous

    def rollback(self) -> tuple[str, str]:
        """Let serve again what served before; returns (from, to)."""
        old, new = self.ledger.checkpoints.rollback()
        self.hooks.ask(hookspecs.after_promote, checkpoint=new, previous=old)
        return old, new

    def lineage(self, identifier: str) -> dict[str, LineageGraph]:
        """Return what an id was made from (`down`) and what was made from it (`up`)."""
        return {"down": self.ledger.lineage.down(identifier), "up": self.ledger.lineage.up(identifier)}

    def close(self) -> None:
        """Close the ledger and the index; safe to call twice."""
        self.parts.close()

    def __enter__(self) -> Workspace:
        """Return the workspace itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
