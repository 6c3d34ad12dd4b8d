"""The training process: `python -m agentkd.train spec.json` (a `TrainJob` as JSON).

Runs where torch, transformers, peft, safetensors, pydantic and pluggy are installed. With `--events` it
writes JSON events on standard output for the process that started it; `--parent PID` ends it (saved, to go
on later) when that process is gone. `--plan` says what the job will take and starts nothing. Several
processes share the work under `torchrun -m agentkd.train spec.json`, or `accelerate launch -m` with the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from agentkd.errors import AgentkdError, ConfigError, MissingExtraError, TrainError, of_the_system
from agentkd.schema import TrainJob
from agentkd.train.reporter import Reporter


def main(arguments: list[str] | None = None) -> int:
    """Run a job; return the exit code of its error, or 0."""
    parser = argparse.ArgumentParser(prog="python -m agentkd.train", description="Train a LoRA adapter.")
    parser.add_argument("spec", type=Path, help="TrainJob as JSON")
    parser.add_argument("--events", action="store_true", help="write JSON events on standard output")
    parser.add_argument("--parent", type=int, default=0, help="stop when this process is gone")
    parser.add_argument("--plan", action="store_true", help="say what the job will take, and start nothing")
    parser.add_argument("--processes", type=int, default=1, help="processes that `--plan` reckons with")
    options = parser.parse_args(arguments)
    reporter = Reporter(is_machine=options.events, is_muted=os.environ.get("RANK", "0") != "0")
    asked: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        job = _read(options.spec)
        try:
            from agentkd.train.loop import train
            from agentkd.train.plan import plan
        except ImportError as error:
            raise MissingExtraError.of(error.name or "torch", "train", "training") from error
        if options.plan:
            reporter.plan(plan(job, reporter, processes=options.processes))
            return 0
        checkpoint = train(job, reporter, lambda: bool(asked) or _is_gone(options.parent))
    except Exception as error:
        named = error if isinstance(error, AgentkdError) else _out_of_memory(error) or of_the_system(error)
        if named is None:
            raise
        reporter.error(type(named).__name__, named.message, named.hint)
        return named.exit_code
    reporter.say(f"`{checkpoint.name}` is in {job.output}")
    return 0


def _is_gone(parent: int) -> bool:
    """Whether the process that asked for this training is gone; 0 for none."""
    if "RANK" in os.environ and parent:  # torchrun stands between
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            return True
        return False
    return parent not in (0, os.getppid())


def _read(spec: Path) -> TrainJob:
    try:
        return TrainJob.model_validate_json(spec.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"`{spec}` is no training job: {error}", path=str(spec)) from error


def _out_of_memory(error: Exception) -> TrainError | None:
    """Return which settings take less memory, where the error is that there was none left; None otherwise."""
    torch = sys.modules.get("torch")
    if not isinstance(error, MemoryError) and not (torch and isinstance(error, torch.OutOfMemoryError)):
        return None
    said = (str(error).splitlines() or [""])[0]
    return TrainError(
        f"the training ran out of memory: {said}",
        hint='lower `[train] max_memory` (GiB), or set `gradient_checkpointing = "on"`, and run the same '
        "command again: it goes on from its last save",
    )


if __name__ == "__main__":
    sys.exit(main())
