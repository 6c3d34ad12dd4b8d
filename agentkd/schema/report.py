"""What was measured and decided: evaluations, verdicts and reports."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from agentkd.schema.base import Value, now
from agentkd.schema.interval import Interval
from agentkd.schema.placement import Placement

__all__ = [
    "ArmResult",
    "CorrectionRound",
    "CycleReport",
    "Diagnosis",
    "Evaluation",
    "Interval",
    "Paired",
    "PhaseReport",
    "TaskResult",
    "TransferCell",
    "TransferRow",
    "Verdict",
]


class TaskResult(Value):
    """How one arm did on one task."""

    task_id: str
    """The task."""
    success: bool
    """Whether it was done."""
    parts: dict[str, float] = Field(default_factory=dict)
    """Partial scores in [0, 1]."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens written."""
    seconds: float = 0.0
    """Wall time."""


class ArmResult(Value):
    """How one arm (base, base + memory, student, ..., a baseline) did on a split."""

    name: str
    """Name of the arm."""
    model: str = ""
    """Model that acted; empty for a baseline without one."""
    uses_memory: bool = False
    """Whether memories were recalled."""
    run_id: str = ""
    """Run whose trajectories it sums up; empty for a baseline without a model."""
    n: int
    """Tasks."""
    success: Interval
    """Share of tasks done (Wilson interval)."""
    parts: dict[str, Interval] = Field(default_factory=dict)
    """Mean of each partial score."""
    prompt_tokens: float = 0.0
    """Mean prompt tokens per task."""
    completion_tokens: float = 0.0
    """Mean completion tokens per task."""
    seconds: float = 0.0
    """Mean wall seconds per task."""
    routes: dict[str, int] = Field(default_factory=dict)
    """Tasks by the student that a router chose for them, `base` too where a tainted one stood aside."""
    results: tuple[TaskResult, ...] = ()
    """One result per task, in task order."""

    @property
    def title(self) -> str:
        """The name for people: says where a student reads its facts though no other memory is shown."""
        reads_facts = self.uses_memory and " + " not in self.name
        return f"{self.name} + facts" if reads_facts else self.name


class Paired(Value):
    """A paired comparison of two arms on the same tasks."""

    ours: str
    """Name of the first arm."""
    other: str
    """Name of the second arm."""
    n: int
    """Shared tasks."""
    difference: Interval
    """Mean of success(ours) - success(other), paired bootstrap."""
    p_value: float
    """Exact McNemar test, two-sided."""
    wins: int
    """Tasks that only the first arm did."""
    losses: int
    """Tasks that only the second arm did."""


class Diagnosis(Value):
    """What an evaluator found about a candidate."""

    evaluator: str
    """Name of the component."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Figures by name."""
    flags: tuple[str, ...] = ()
    """Names of the faults that forbid to promote; none where it only describes."""
    notes: tuple[str, ...] = ()
    """What was seen, one sentence each."""
    columns: tuple[str, ...] = ()
    """Headings of the table; none for a diagnosis without one."""
    rows: tuple[tuple[str, ...], ...] = ()
    """Rows of the table, one text per heading."""


class Evaluation(Value):
    """All arms on one split, with the paired comparisons that a gate needs."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """Content hash over arms, split and tasks."""
    suite: str
    """Suite."""
    split: str
    """Split."""
    n: int
    """Tasks."""
    seed: int = 0
    """Seed of sampling and bootstrap."""
    bootstrap: int = 10_000
    """Resamples of the paired bootstrap."""
    checkpoint: str = ""
    """Candidate that was judged; empty without one."""
    arms: tuple[ArmResult, ...] = ()
    """Arms in the order of the table."""
    paired: tuple[Paired, ...] = ()
    """Comparisons of the candidate with every other arm."""
    diagnoses: tuple[Diagnosis, ...] = ()
    """What the evaluators found about the candidate."""

    def arm(self, name: str) -> ArmResult:
        """Return an arm by name; raises KeyError."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)


class Verdict(Value):
    """What the gate decided, with every number that it looked at."""

    promote: bool
    """Whether the candidate may serve."""
    checkpoint: str
    """The candidate."""
    against: str
    """What serves now: `base` or a checkpoint."""
    reasons: tuple[str, ...] = ()
    """One sentence per check, with its figures."""
    flags: tuple[str, ...] = ()
    """Names of the checks that failed; `veto:<plugin>` for a plugin's."""
    numbers: dict[str, float] = Field(default_factory=dict)
    """The figures by name."""


class TransferCell(Value):
    """How a candidate does on the tasks of one cycle: backward transfer."""

    cycle: int
    """Number of the cycle that the tasks are of; of its own cycle for the last cell of a row."""
    suite: str
    """Suite."""
    split: str
    """Split."""
    success: Interval
    """Share of the tasks that the candidate does (Wilson interval)."""
    paired: Paired | None = None
    """The candidate against what that cycle's own candidate did then, on the same tasks; None in its own."""
    was_promoted: bool = False
    """Whether that cycle promoted its candidate, and nobody took it back: only then can something be lost."""


class TransferRow(Value):
    """A row of the backward-transfer matrix: a candidate on the tasks of every cycle up to its own."""

    cycle: int
    """Number of the candidate's cycle."""
    checkpoint: str
    """The candidate."""
    cells: tuple[TransferCell, ...] = ()
    """One per cycle whose tasks it was measured on, oldest first."""


class PhaseReport(Value):
    """What one phase of a cycle did."""

    name: str
    """run, distill, refine, synthesize, compile, train, evaluate, promote, place or retire; gate by hand."""
    key: str
    """Hash of the phase's inputs and settings; equal keys mean that the work is done."""
    status: Literal["running", "done", "skipped", "stopped", "failed"] = "running"
    """How it ended; `skipped` where a finished phase with this key was found, `stopped` by a ceiling."""
    summary: str = ""
    """One sentence for the report."""
    output: dict[str, Any] = Field(default_factory=dict)
    """Ids and counts that later phases need."""
    usage: dict[str, float] = Field(default_factory=dict)
    """prompt_tokens, completion_tokens, usd (absent where unknown), calls."""
    seconds: float = 0.0
    """Wall time."""
    earlier_seconds: float = 0.0
    """Wall time of tries that were stopped or failed before."""
    cpu_seconds: float = 0.0
    """Processor time, children included."""
    started_at: datetime = Field(default_factory=now)
    """When it began (UTC)."""


class CorrectionRound(Value):
    """How often one run had to be corrected: the figure that has to fall from round to round (DROC)."""

    run_id: str
    """The run."""
    suite: str
    """Suite of its tasks (the first by name where there are several)."""
    n_tasks: int
    """Tasks times attempts; a task that was tried again counts once."""
    n_corrections: int
    """Corrections of these tasks."""
    per_task: float
    """Corrections per task."""
    by_source: dict[str, int] = Field(default_factory=dict)
    """Corrections by who gave them: person, grader, judge, tool."""
    started_at: datetime
    """When its first trajectory began (UTC)."""


class CycleReport(Value):
    """One cycle from end to end; written as `report.json`."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """`cycle-N`."""
    number: int
    """Number of the cycle in its workspace, from 1."""
    suite: str
    """Suite that it ran on."""
    seed: int = 0
    """Seed."""
    phases: tuple[PhaseReport, ...] = ()
    """The phases in order."""
    evaluations: tuple[Evaluation, ...] = ()
    """One per evaluated split."""
    verdict: Verdict | None = None
    """The gate's decision; None where nothing was trained."""
    transfer: tuple[TransferRow, ...] = ()
    """The backward-transfer matrix: rows of the newest cycles, this one last."""
    rejected: tuple[Verdict, ...] = ()
    """The gate's verdicts on the other candidates of the cycle, which do not serve."""
    checkpoint: str = ""
    """Candidate of the cycle."""
    serving: str = "base"
    """What serves after the cycle."""
    corrections: tuple[CorrectionRound, ...] = ()
    """Corrections per task, run by run, oldest first; held-out runs are not among them."""
    placements: tuple[Placement, ...] = ()
    """Where each measured cluster of memories belongs, with the figures."""
    stopped: str = ""
    """Why the cycle stopped before its end, to be gone on with; empty for one that ended."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Facts in the ledger by kind, and lineage counts."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Loaded plugins and their versions."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Python and packages."""
    machine: dict[str, str] = Field(default_factory=dict)
    """Processor, cores, memory."""
    loss_curve: tuple[tuple[int, float], ...] = ()
    """(step, loss) pairs of the training."""
    created_at: datetime = Field(default_factory=now)
    """When it was written (UTC)."""

    @property
    def dataset_id(self) -> str:
        """Id of the dataset that it compiled; empty where it compiled none."""
        compiled = (phase.output["dataset_id"] for phase in self.phases if phase.name == "compile")
        return str(next(compiled, ""))
