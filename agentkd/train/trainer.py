"""The parent's side of training: starts the process, shows its progress, reads its result. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import Field

import agentkd
from agentkd import errors
from agentkd.errors import AgentkdError, TrainError
from agentkd.files import aside_folder
from agentkd.protocols import Bar, Progress, SilentProgress
from agentkd.schema import Checkpoint, TrainJob, TrainPlan, Value

__all__ = ["LoraTrainer", "LoraTrainerSettings"]

_LAST_LINES = 12


class LoraTrainerSettings(Value):
    """Options of the trainer `lora`."""

    threads: int = Field(default=0, ge=0)
    """CPU threads of each training process; 0 shares all cores among the processes."""
    processes: int = Field(default=1, ge=1)
    """Processes of torchrun that share the rows of every step: one per GPU, or per group of CPU cores."""


class LoraTrainer:
    """Trains a LoRA adapter in a process of its own: its memory is given back, and a crash is an error."""

    name = "lora"

    def __init__(self, settings: LoraTrainerSettings | None = None) -> None:
        self._settings = settings or LoraTrainerSettings()

    def train(self, job: TrainJob, progress: Progress | None = None) -> Checkpoint:
        """Train, or go on with a training that was cut off; a finished one is returned as it is.

        Raises the error that the process named (DataError, ConfigError, CheckpointError, LockedError, ...),
        or TrainError with its last lines where it died.
        """
        self._run(job, self._launcher(), progress or SilentProgress())
        manifest = Path(job.output) / "checkpoint.json"
        return Checkpoint.model_validate_json(manifest.read_bytes())

    def plan(self, job: TrainJob, progress: Progress | None = None) -> TrainPlan:
        """Return what a training will take, measured by a short probe in such a process; starts nothing."""
        asked = ["--plan", "--processes", str(self._settings.processes)]
        display = self._run(job, ["agentkd.train"], progress or SilentProgress(), asked)
        if display.plan is None:
            raise TrainError("the training process gave no plan")
        return display.plan

    def _launcher(self) -> list[str]:
        """Return the module that is run, behind torchrun for several processes."""
        if self._settings.processes == 1:
            return ["agentkd.train"]
        each = f"--nproc-per-node={self._settings.processes}"
        return ["torch.distributed.run", "--standalone", each, "-m", "agentkd.train"]

    def _run(
        self, job: TrainJob, launcher: Sequence[str], progress: Progress, options: Sequence[str] = ()
    ) -> _Display:
        with aside_folder(Path(job.output).parent) as folder:
            spec = folder / "spec.json"
            spec.write_text(job.model_dump_json(indent=2), encoding="utf-8")
            arguments = [*launcher, str(spec), "--events", "--parent", str(os.getpid()), *options]
            with self._process(arguments) as process, _Display(progress) as display:
                last_lines: deque[str] = deque(maxlen=_LAST_LINES)
                reader = threading.Thread(target=_drain, args=(process.stderr, last_lines), daemon=True)
                reader.start()
                _follow(process, display)
                code = process.wait()
                reader.join(timeout=5)
        if code != 0:
            raise display.error or _died(code, last_lines)
        return display

    @contextmanager
    def _process(self, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment(),
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it saves itself after the step at hand
                try:
                    process.wait(timeout=120)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        package = str(Path(agentkd.__file__).parent.parent)
        paths = [package, *filter(None, [environment.get("PYTHONPATH", "")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not take the cores
        environment["HF_HUB_OFFLINE"] = "1"
        if self._settings.threads:
            environment["OMP_NUM_THREADS"] = str(self._settings.threads)
        elif self._settings.processes > 1:  # torchrun would give each one thread, and a plan takes all cores
            from agentkd import hf

            n_threads = max(1, hf.n_cores() // self._settings.processes)
            environment.setdefault("OMP_NUM_THREADS", str(n_threads))
        return environment


def _drain(stream: IO[str] | None, lines: deque[str]) -> None:
    for line in stream or ():
        lines.append(line.rstrip())


def _follow(process: subprocess.Popen[str], display: _Display) -> None:
    for line in process.stdout or ():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library that prints
        if isinstance(event, dict):
            display.show(event)


def _died(code: int, last_lines: deque[str]) -> TrainError:
    said = "\n".join(last_lines)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    hint = "run again: it goes on from its last save"
    if code == -9:
        hint += "; if memory ran out, lower `[train] max_memory`"
    return TrainError(f"the training process {how}" + (f":\n{said}" if said else ""), hint=hint, code=code)


class _Display:
    """Turns the events of the process into bars and lines."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stack = ExitStack()
        self._label = ""
        self._done = 0.0
        self._bar: Bar | None = None
        self.error: AgentkdError | None = None
        self.plan: TrainPlan | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if event["event"] == "say":
            self._progress.say(event["line"])
        elif event["event"] == "error":
            kind = getattr(errors, event["kind"], TrainError)
            self.error = kind(event["message"], hint=event["hint"])
        elif event["event"] == "plan":
            self.plan = TrainPlan.model_validate(event["plan"])
        elif event["event"] == "progress":
            self._advance(event)

    def _advance(self, event: dict[str, Any]) -> None:
        if self._bar is None or event["label"] != self._label:
            self._stack.close()
            self._label, self._done = event["label"], 0.0
            self._bar = self._stack.enter_context(
                self._progress.bar(event["label"], event["total"], event["unit"])
            )
        self._bar.advance(event["done"] - self._done, note=event["note"])
        self._done = event["done"]
