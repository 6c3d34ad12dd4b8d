"""The parent's side: a process of its own, progress, and errors that keep their class."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentkd.errors import ConfigError, TrainError
from agentkd.plugins import PluginHost
from agentkd.protocols import Objective, SpanObjective, Trainer
from agentkd.schema import TrainJob
from agentkd.train import LoraTrainer, LoraTrainerSettings
from agentkd.train.reporter import Reporter

MakeJob = Callable[..., TrainJob]
pytestmark = pytest.mark.usefixtures("new_python")


class Seen:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: dict[str, float] = {}

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[SeenBar]:
        self.bars[label] = 0.0
        yield SeenBar(self, label)

    def say(self, line: str) -> None:
        self.lines.append(line)


class SeenBar:
    def __init__(self, seen: Seen, label: str) -> None:
        self.seen, self.label = seen, label

    def advance(self, n: float = 1, *, note: str = "") -> None:
        self.seen.bars[self.label] += n


def test_processes_share_the_cores(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    job, trainer = make_job(), LoraTrainer(LoraTrainerSettings(processes=2))
    assert trainer.plan(job).threads == 1, "a plan measures with what each process gets"
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert trainer.plan(job).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert trainer.plan(job).threads == 1, "what a person sets stands"


def test_a_process_trains_with_few_packages_and_its_progress_is_shown(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU machines often have torch, transformers, peft, safetensors, pydantic and pluggy alone."""
    absent = f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(absent + "sys.stderr.write('only a few packages\\n')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tried = subprocess.run([sys.executable, "-c", "import click"], capture_output=True, text=True)
    assert "only a few packages" in tried.stderr
    assert tried.returncode != 0
    seen = Seen()
    job = make_job()
    trainer = LoraTrainer(LoraTrainerSettings(threads=1))
    assert isinstance(trainer, Trainer)
    checkpoint = trainer.train(job, seen)
    assert (Path(job.output) / "adapter_model.safetensors").is_file()
    assert seen.bars == {"train": checkpoint.metrics["steps"]}
    assert any("optimiser steps" in line for line in seen.lines)


def test_an_error_of_the_process_keeps_its_class(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="no objective is called `stf`"):
        LoraTrainer().train(make_job(objective={"stf": {}}))


def test_a_process_that_dies_is_a_train_error_with_its_last_lines(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dies.py").write_text("import os, sys\nsys.stderr.write('farewell\\n')\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TrainError, match=r"killed by signal 6(.|\n)*farewell"):
        LoraTrainer().train(make_job(plugins=("dies",)))


def test_a_process_that_was_killed_names_only_limits_that_keep_its_saves(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TrainError, match="killed by signal 9") as died:
        LoraTrainer().train(make_job(plugins=("killed",)))
    assert "lower `[train] max_memory`" in died.value.hint
    assert "tokens_per_step" not in died.value.hint, "it decides the weights: such a training begins anew"


def test_the_parents_side_and_the_objectives_import_nothing_heavy() -> None:
    code = (
        "import sys, agentkd.train\n"
        "from agentkd.plugins import PluginHost\n"
        "registry = PluginHost(auto=False, modules=['agentkd.train.objectives']).registry\n"
        "for name in registry.names('objective'): registry.build('objective', name, {}, None)\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


ABSENT = (
    "chromadb", "click", "gguf", "jsonschema", "langchain", "langgraph", "litellm", "llguidance", "mcp",
    "onnxruntime", "rich", "sqlalchemy", "tantivy",
)  # fmt: skip


def test_the_built_in_objectives_keep_their_promise() -> None:
    registry = PluginHost(auto=False, modules=["agentkd.train.objectives"]).registry
    assert {"self-context", "sft", "forward-kl", "jsd", "taid"} <= set(registry.names("objective"))
    for name in registry.names("objective"):
        objective = registry.build("objective", name, {}, None)
        assert isinstance(objective, Objective | SpanObjective)
        assert objective.name == name
        objective.load_state_dict(objective.state_dict())


def test_a_listener_that_is_gone_does_not_end_the_training() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    reporter = Reporter(is_machine=True, out=os.fdopen(writing, "w"))
    reporter.say("still here")
    reporter.progress("train", 1, 2, "steps")


def test_people_get_lines_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(is_machine=False)
    reporter.progress("train", 2, 2, "steps", "loss 0.500")
    assert capsys.readouterr().err == "train 2/2 steps loss 0.500\n"
