"""The proof of `agentkd doctor`: on a scratch workspace, each stage must change what the ledger holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cli.check import Check
from agentkd.errors import AgentkdError

if TYPE_CHECKING:
    from agentkd.protocols import Progress
    from agentkd.schema import Checkpoint, DatasetCard, Evaluation
    from agentkd.workspace import Workspace

__all__ = ["STAGES", "prove", "write_tasks"]

STAGES = (
    "run", "distill", "recall", "rebuild", "compile", "train", "evaluate", "gate", "promote", "rollback",
    "lineage", "revoke",
)  # fmt: skip
"""Names of the checks in order; what follows a failure is not tried."""

_N_HELD_OUT = 20
_TOOL = {
    "name": "set_lamp",
    "description": "Set the colour of a lamp.",
    "parameters": {
        "type": "object",
        "properties": {"colour": {"type": "string", "maxLength": 12}},
        "required": ["colour"],
        "additionalProperties": False,
    },
}


class Failed(Exception):
    """A stage ran and changed nothing, or not what it should."""


def write_tasks(path: Path) -> None:
    """Write 48 small requests as a JSONL suite; the right call is always the same.

    One call for all is what a random model of two layers can learn in seconds, and what it never says
    by chance, so that the gate has something to decide on.
    """
    verbs = ("Light up", "Switch on", "Make bright", "Turn the lamp on in", "Illuminate", "Give light to")
    rooms = (
        "the kitchen",
        "our hall",
        "the attic",
        "my study",
        "the cellar",
        "a bedroom",
        "the barn",
        "the shed",
    )
    call = {"name": "set_lamp", "arguments": {"colour": "blue"}}
    pairs = list(product(rooms, verbs))
    with path.open("w", encoding="utf-8") as lines:
        for number, (room, verb) in enumerate(pairs):
            split = "holdout" if number < _N_HELD_OUT else "train"
            task = {"id": f"lamp-{number}", "prompt": f"{verb} {room}, please.", "split": split,
                    "tools": [_TOOL], "calls": [call]}  # fmt: skip
            lines.write(json.dumps(task) + "\n")


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "roles": {"student": f"path:{folder / 'base'}", "actor": "student"},
        "models": {"max_new_tokens": 48, "dtype": "float32", "device": "cpu"},
        "agent": {"force_tool_call": True, "max_steps": 1},
        "memory": {"embedder": "hashing", "index": "chroma", "min_score": 0.05},
        "train": {
            "learning_rate": 1e-2,
            "epochs": 12.0,
            "tokens_per_step": 512,
            "dtype": "float32",
            "device": "cpu",
            "lora": {"r": 8, "alpha": 16},
        },
        "evaluate": {"bootstrap": 1000},
        "gate": {"min_tasks": _N_HELD_OUT},
        "cycle": {"suite": "jsonl"},
        "suite": {"jsonl": {"path": str(folder / "tasks.jsonl")}},
        "plugins": {"auto": False},
    }


class _Proof:
    """The stages in order, over one scratch workspace; each returns what changed, in one sentence."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.card: DatasetCard | None = None
        self.checkpoint: Checkpoint | None = None
        self.evaluation: Evaluation | None = None
        self.memory_id = ""

    def counts(self) -> dict[str, int]:
        return self.workspace.ledger.counts()

    def run(self) -> str:
        before = self.counts()
        summary = self.workspace.run()
        after = self.counts()
        new = after["trajectories"] - before["trajectories"]
        corrections = after["corrections"] - before["corrections"]
        _must(new == summary.n > 0, f"{summary.n} tasks gave {new} trajectories")
        _must(corrections == summary.n - summary.succeeded, f"{corrections} corrections by the grader")
        return f"{new} trajectories, {summary.succeeded} succeeded, {corrections} corrections by the grader"

    def distill(self) -> str:
        before = self.counts()["memories"]
        self.workspace.distill()
        new = self.counts()["memories"] - before
        _must(new > 0, "no memory was stored")
        return f"{new} memories"

    def recall(self) -> str:
        hits = self._recall()
        self.memory_id = hits[0].memory.id
        return f"{len(hits)} hits in Chroma, the best at {hits[0].score:.2f}"

    def rebuild(self) -> str:
        before = [hit.memory.id for hit in self._recall()]
        self.workspace.memory.rebuild()
        after = [hit.memory.id for hit in self._recall()]
        _must(before == after, "the rebuilt index answers differently")
        return "the index was made anew from the ledger and answers alike"

    def compile(self) -> str:
        before = len(self.workspace.datasets())
        card = self.card = self.workspace.compile()
        folder = self.workspace.root / "datasets" / card.id
        _must(len(self.workspace.datasets()) == before + 1, "no dataset was registered")
        _must((folder / "train.jsonl").is_file() and card.n_train > 0, "no training row was written")
        held_out = {task.id for task in self.workspace.parts.suite("jsonl").tasks("holdout")}
        leaked = held_out & self.workspace.ledger.datasets.tasks_of(card.id)
        _must(not leaked, f"held-out tasks are in the dataset: {sorted(leaked)}")
        return f"{card.n_train} rows, {card.n_label_tokens} trained tokens, no held-out task among them"

    def train(self) -> str:
        checkpoint = self.checkpoint = self.workspace.train()
        folder = self.workspace.root / "checkpoints" / checkpoint.name
        _must((folder / "adapter_model.safetensors").is_file(), "no adapter was written")
        _must(checkpoint.name in [c.name for c in self.workspace.checkpoints()], "it is not registered")
        figures = ", ".join(f"{k} {v:g}" for k, v in checkpoint.metrics.items() if k in ("loss", "steps"))
        return f"{checkpoint.name}: {figures}"

    def evaluate(self) -> str:
        evaluation = self.evaluation = self.workspace.evaluate(_known(self.checkpoint).name)
        base, student = evaluation.arm("base"), evaluation.arm("student")
        _must(student.n == _N_HELD_OUT, f"{student.n} of {_N_HELD_OUT} held-out tasks were judged")
        did = f"base {base.success.value:.2f}, student {student.success.value:.2f}"
        return f"{did} of {student.n} held-out tasks"

    def gate(self) -> str:
        from agentkd.evaluate import gate

        settings, hooks = self.workspace.settings.gate, self.workspace.hooks
        evaluation = _known(self.evaluation)
        good = gate(evaluation, settings, "base", hooks)
        _must(good.promote, f"the better student was refused: {' '.join(good.reasons)}")
        strict = settings.model_copy(update={"min_tasks": evaluation.n + 1})
        _must(not gate(evaluation, strict, "base", hooks).promote, "too few tasks were taken as evidence")
        return f"promotes the better student, refuses it on too little evidence ({len(good.reasons)} checks)"

    def promote(self) -> str:
        name = _known(self.checkpoint).name
        self.workspace.promote(name, force=True)  # what the gate says of it is looked at before
        serving = self.workspace.ledger.checkpoints.serving()
        _must(serving is not None and serving.name == name, "another checkpoint serves")
        answers = self.workspace.model("student").name
        _must(name in answers, f"the student's model is still `{answers}`")
        return f"{name} serves"

    def rollback(self) -> str:
        before, after = self.workspace.rollback()
        _must(self.workspace.ledger.checkpoints.serving() is None, "the checkpoint still serves")
        return f"{before} -> {after}"

    def lineage(self) -> str:
        counts = self.workspace.lineage(_known(self.checkpoint).name)["down"].counts()
        _must(all(counts.get(kind) for kind in ("dataset", "row", "trajectory")), f"it ends at {counts}")
        return "the student rests on " + ", ".join(f"{n} {kind}" for kind, n in counts.items())

    def revoke(self) -> str:
        up = self.workspace.lineage(self.memory_id)["up"]
        self.workspace.revoke(self.memory_id, reason="proof of the doctor")
        found = [hit.memory.id for hit in self._recall(may_be_empty=True)]
        _must(self.memory_id not in found, "a revoked memory is still recalled")
        name = _known(self.checkpoint).name
        status = next(c.status for c in self.workspace.checkpoints() if c.name == name)
        if name in up.ids("checkpoint"):
            _must(status == "tainted", f"the checkpoint made from it is `{status}`, not tainted")
        return f"the memory is gone from recall, {name} is {status}"

    def _recall(self, may_be_empty: bool = False) -> list[Any]:
        workspace = self.workspace
        scope = workspace.settings.memory.scope.model_copy(update={"app": "jsonl"})
        task = workspace.parts.suite("jsonl").tasks("train")[0]
        hits = workspace.memory.recall(task.prompt, 4, scope=scope)
        _must(hits or may_be_empty, f"nothing was recalled for {task.prompt!r}")
        return list(hits)


def prove(folder: Path, progress: Progress) -> Iterator[Check]:
    """Make a workspace in `folder` with a tiny random student and yield one check per stage."""
    from agentkd import hf
    from agentkd.workspace import Workspace

    write_tasks(folder / "tasks.jsonl")
    started = time.monotonic()
    try:
        hf.tiny_model(folder / "base")
        workspace = Workspace(folder / "workspace", settings=_settings(folder), progress=progress)
    except (AgentkdError, ImportError, OSError) as error:
        yield _check("student", started, error)
        return
    with workspace:
        proof = _Proof(workspace)
        for stage in STAGES:
            check = _tried(stage, getattr(proof, stage))
            yield check
            if check.status == "FAIL":
                return


def _tried(stage: str, prove_stage: Callable[[], str]) -> Check:
    started = time.monotonic()
    try:
        return _check(stage, started, prove_stage())
    except Exception as error:  # a doctor reports what breaks, whatever it is
        return _check(stage, started, error)


def _check(stage: str, started: float, found: str | Exception) -> Check:
    seconds = time.monotonic() - started
    if isinstance(found, str):
        return Check(area="proof", name=stage, status="PASS", detail=found, seconds=seconds)
    known = isinstance(found, (AgentkdError, Failed))
    return Check(
        area="proof",
        name=stage,
        status="FAIL",
        detail=getattr(found, "message", str(found)) if known else f"{type(found).__name__}: {found}",
        hint=getattr(found, "hint", "") if known else "please report this with `agentkd doctor --json`",
        seconds=seconds,
    )


def _must(holds: object, message: str) -> None:
    if not holds:
        raise Failed(message)


def _known(value: Any) -> Any:
    _must(value is not None, "an earlier stage gave nothing")
    return value
