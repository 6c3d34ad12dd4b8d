"""The training loop: plan, resume, step, save, publish."""

from __future__ import annotations

import functools
import json
import math
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentkd import hf
from agentkd.errors import ConfigError, TrainError
from agentkd.plugins import PluginHost
from agentkd.schema import Checkpoint, TrainJob
from agentkd.train import finish, saves
from agentkd.train.body import Body
from agentkd.train.lock import exclusive
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.loss import TEACHER, StepScale, Weighted, accumulate, evaluate, normalisers
from agentkd.train.packing import MAX_PAIRS, make_packs, plan_steps
from agentkd.train.reporter import Reporter
from agentkd.train.rows import Dataset, Row, load_dataset, preflight
from agentkd.train.signals import TeacherSignals

__all__ = ["build_objectives", "learning_rate", "train"]

BUILT_IN = "agentkd.train.objectives"
_CPU_PACK = (3072, MAX_PAIRS)  # tokens, query-key pairs
_GPU_PACK = (32768, 1 << 26)
_DEFAULT_TOP_K = 20


def train(job: TrainJob, reporter: Reporter, should_stop: Callable[[], bool] = lambda: False) -> Checkpoint:
    """Train an adapter, or go on with a killed training, or return what is finished already.

    `should_stop` is asked after every step; a stopped training is saved and raises TrainError.
    """
    dataset = load_dataset(job.dataset, job.settings.max_tokens_per_row)
    work = Path(f"{job.output}.partial")
    with exclusive(work):
        checkpoint = finish.finished(job, dataset.card)
        if checkpoint is not None:
            shutil.rmtree(work, ignore_errors=True)
            return checkpoint
        return _Training(job, dataset, work, reporter).run(should_stop)


def build_objectives(job: TrainJob) -> list[Weighted]:
    """Build the job's objectives; raises ConfigError for an unknown name, option or weight."""
    modules = [module for module in job.plugins if module != "agentkd.builtins"]
    registry = PluginHost(auto=False, modules=[BUILT_IN, *modules]).registry
    built = []
    for name, options in job.settings.objective.items():
        rest = {key: value for key, value in options.items() if key != "weight"}
        weight = options.get("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"`weight` of objective `{name}` must be a positive number, not {weight!r}")
        objective = registry.build("objective", name, rest, None)
        if unknown := sorted(objective.requires - {TEACHER}):
            raise TrainError(f"objective `{name}` requires {unknown}, which this trainer cannot give")
        built.append(Weighted(objective, float(weight), registry.get("objective", name).plugin))
    if not built:
        raise ConfigError("`[train.objective]` names no objective", hint="add `sft`")
    return built


def learning_rate(step: int, n_steps: int, *, peak: float, warmup_share: float) -> float:
    """Return the rate of a step (from 0): linear warm-up, then cosine decay to a tenth of the peak."""
    n_warmup = math.ceil(warmup_share * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    share = (step - n_warmup) / max(1, n_steps - n_warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


@dataclass
class _StepResult:
    terms: dict[str, float]
    loss: float
    grad_norm: float
    n_tokens: int
    n_computed: int
    n_labels: int


class _Training:
    def __init__(self, job: TrainJob, dataset: Dataset, work: Path, reporter: Reporter) -> None:
        settings = job.settings
        self.job, self.dataset, self.work, self.reporter = job, dataset, work, reporter
        self.objectives = build_objectives(job)
        self.rows = self._useful_rows()
        sizes = [row.student.n_tokens for row in self.rows]
        self.steps = plan_steps(
            sizes, epochs=settings.epochs, tokens_per_step=settings.tokens_per_step, seed=settings.seed
        )
        for line in preflight(dataset, len(self.steps)):
            reporter.say(line)
        plan = self._plan()
        torch.set_num_threads(plan["threads"])
        torch.manual_seed(settings.seed)
        model = hf.load_model(job.base, dtype=plan["dtype"], device=plan["device"])
        self.model = add_adapter(model, settings.lora, init_adapter=job.init_adapter, seed=settings.seed)
        self.body = Body(self.model)
        rows = [*self.rows, *dataset.dev]
        teachers = [row.teacher for row in rows if row.teacher]
        self.body.pack_for_training([*(row.student for row in rows), *teachers])
        max_tokens, max_pairs = _CPU_PACK if self.body.device.type == "cpu" else _GPU_PACK
        self.pack = functools.partial(make_packs, max_tokens=max_tokens, max_pairs=max_pairs)
        parameters = [parameter for _, parameter in adapter_parameters(self.model)]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.progressed = saves.Progressed()
        self.signals = self._prepare_signals(plan["template_hash"])
        for weighted in self.objectives:
            weighted.objective.prepare(len(self.steps))

    def _useful_rows(self) -> tuple[Row, ...]:
        """Return the rows that some objective learns from."""
        rows, taught = self.dataset.train, tuple(row for row in self.dataset.train if row.teacher)
        wanting = [weighted.objective.name for weighted in self.objectives if weighted.needs_teacher]
        if wanting and not taught:
            raise TrainError(
                f"objective `{wanting[0]}` needs rows with a teacher view, and the dataset has none",
                hint="compile with memories that are recalled for the rows, or train with `sft`",
            )
        if len(wanting) < len(self.objectives) or len(taught) == len(rows):
            return rows
        self.reporter.say(f"{len(rows) - len(taught)} rows without a teacher view are left out")
        return taught

    def _plan(self) -> dict[str, Any]:
        """Return what a resumed run must repeat; choices that depend on the machine are made once."""
        file, key = self.work / "plan.json", finish.job_key(self.job, self.dataset.card)
        if file.is_file():
            plan: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if plan["key"] == key:
                return plan
        shutil.rmtree(self.work, ignore_errors=True)  # left over from another job
        self.work.mkdir(parents=True)
        device, dtype = hf.pick_device(self.job.settings.device), self.job.settings.dtype
        plan = {
            "key": key,
            "device": device,
            "dtype": str(hf.fastest_dtype(device)).removeprefix("torch.") if dtype == "auto" else dtype,
            "threads": torch.get_num_threads(),
            "template_hash": self.dataset.card.template_hash,
        }
        saves.write_text(file, json.dumps(plan, indent=1))
        return plan

    def _prepare_signals(self, template_hash: str) -> TeacherSignals | None:
        """Compute or load the teacher's signals where an objective asks for them."""
        wanted = [weighted.objective for weighted in self.objectives if weighted.needs_teacher]
        if not wanted:
            return None
        rows = [row for row in self.rows if row.teacher]
        signals = TeacherSignals(
            Path(self.job.signals or Path(self.job.dataset) / "signals"),
            base_id=self.job.base_id,
            template_hash=template_hash,
            top_k=max(int(getattr(objective, "top_k", _DEFAULT_TOP_K)) for objective in wanted),
        )
        done = 0

        def on_rows(n: int) -> None:
            nonlocal done
            done += n
            self.reporter.progress("teacher signals", done, len(rows), "rows")

        signals.prepare(
            rows,
            self.body,
            pack=self.pack,
            chunk_tokens=self.job.settings.chunk_tokens,
            on_rows=on_rows,
        )
        return signals

    def run(self, should_stop: Callable[[], bool]) -> Checkpoint:
        """Do the steps that are left and publish the checkpoint."""
        self._resume()
        settings, n_steps = self.job.settings, len(self.steps)
        saved_at = time.monotonic()
        for step in range(self.progressed.step, n_steps):
            started, cpu = time.monotonic(), time.process_time()
            result = self._step(step)
            seconds = time.monotonic() - started
            self.progressed.seconds += seconds
            self.progressed.cpu_seconds += time.process_time() - cpu
            self._log(step, result, seconds, time.process_time() - cpu)
            if self._ends_epoch(step):
                self._watch_dev(step)
            is_last = step + 1 == n_steps
            stopped = should_stop() and not is_last
            is_due = time.monotonic() - saved_at + seconds > settings.save_every_seconds
            if stopped or (is_due and not is_last):
                states = {w.objective.name: w.objective.state_dict() for w in self.objectives}
                saves.save(self.work, self.progressed, self.model, self.optimizer, states)
                saved_at = time.monotonic()
            if stopped:
                raise TrainError(
                    f"training was interrupted after step {step + 1} of {n_steps}",
                    hint="run it again: it goes on from there",
                )
        return finish.publish(self.job, self.dataset.card, self.work, self.model, self._final_metrics())

    def _resume(self) -> None:
        saved = saves.latest(self.work)
        if saved is not None:
            self.progressed, states = saves.restore(saved, self.model, self.optimizer)
            for weighted in self.objectives:
                weighted.objective.load_state_dict(states[weighted.objective.name])
            self.reporter.say(f"going on after step {self.progressed.step} of {len(self.steps)}")
        kept = [line for line in self._metrics() if line["step"] <= self.progressed.step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        saves.write_text(self.work / "metrics.jsonl", text)

    def _metrics(self) -> list[dict[str, Any]]:
        file = self.work / "metrics.jsonl"
        if not file.is_file():
            return []
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # a line without its end was cut off
        return [json.loads(line) for line in lines]

    def _step(self, step: int) -> _StepResult:
        settings = self.job.settings
        rows = [self.rows[number] for number in self.steps[step]]
        weights = [weight for row in rows for weight in row.student.weights]
        taught = [bool(row.teacher) for row in rows for _ in row.student.weights]
        scale = StepScale(
            normalisers(self.objectives, weights, taught), step, len(self.steps), settings.chunk_tokens
        )
        rate = learning_rate(
            step, len(self.steps), peak=settings.learning_rate, warmup_share=settings.warmup_share
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        terms: dict[str, float] = defaultdict(float)
        n_computed = 0
        for pack in self.pack([row.student for row in rows]):
            signals = self.signals.of_pack(pack, rows, self.body.device) if self.signals else None
            for name, value in accumulate(self.body, pack, signals, self.objectives, scale).items():
                terms[name] += value
            n_computed += len(pack.tokens)
        parameters = [parameter for _, parameter in adapter_parameters(self.model)]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
        loss = sum(terms.values())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._refuse(step, rows, terms, norm)
        self.optimizer.step()
        self.progressed.step, self.progressed.loss = step + 1, loss
        n_tokens = sum(row.student.n_tokens for row in rows)
        self.progressed.tokens += n_tokens
        self.progressed.label_tokens += len(weights)
        return _StepResult(dict(terms), loss, norm, n_tokens, n_computed, len(weights))

    def _refuse(self, step: int, rows: Sequence[Row], terms: dict[str, float], norm: float) -> None:
        file = self.work / "bad-step.json"
        facts = {
            "step": step + 1,
            "terms": {name: repr(value) for name, value in terms.items()},
            "grad_norm": repr(norm),
            "rows": [{"id": row.id, "ids": row.student.ids} for row in rows],
        }
        saves.write_text(file, json.dumps(facts, indent=1))
        raise TrainError(
            f"the loss of step {step + 1} is not finite ({facts['terms']}, gradient norm {norm})",
            hint=f"lower `[train] learning_rate` or look at the rows in `{file}`",
            path=str(file),
        )

    def _log(self, step: int, result: _StepResult, seconds: float, cpu_seconds: float) -> None:
        n_steps, done = len(self.steps), self.progressed
        self._append(
            {
                "step": step + 1,
                "loss": result.loss,
                "terms": result.terms,
                "lr": self.optimizer.param_groups[0]["lr"],
                "grad_norm": result.grad_norm,
                "tokens": result.n_tokens,
                "computed_tokens": result.n_computed,
                "label_tokens": result.n_labels,
                "seconds": round(seconds, 4),
                "cpu_seconds": round(cpu_seconds, 4),
                "rss_mib": round(_peak_mib(), 1),
            },
            is_wanted=(step + 1) % self.job.settings.loss_rows_logged == 0 or step + 1 == n_steps,
        )
        speed = done.tokens / max(done.seconds, 1e-9)
        left = (n_steps - step - 1) * done.seconds / (step + 1)
        note = f"loss {result.loss:.3f}, {speed:.0f} tokens/s, {left:.0f} s left"
        self.reporter.progress("train", step + 1, n_steps, "steps", note)

    def _append(self, line: dict[str, Any], *, is_wanted: bool = True) -> None:
        if is_wanted:
            with open(self.work / "metrics.jsonl", "a", encoding="utf-8") as metrics:
                metrics.write(json.dumps(line) + "\n")

    def _ends_epoch(self, step: int) -> bool:
        """Whether a whole pass over the rows, or the training, ends with this step."""
        visits = [len(rows) for rows in self.steps]
        before, after, n = sum(visits[:step]), sum(visits[: step + 1]), len(self.rows)
        return before // n != after // n or step + 1 == len(self.steps)

    def _watch_dev(self, step: int) -> None:
        if self.dataset.dev:
            packs = list(self.pack([row.student for row in self.dataset.dev]))
            loss = evaluate(self.body, packs, self.job.settings.chunk_tokens)
            self._append({"step": step + 1, "dev_loss": loss})
            self.reporter.say(f"step {step + 1}: loss of the dev rows {loss:.4f}")

    def _final_metrics(self) -> dict[str, float]:
        lines = self._metrics()
        losses = [line["loss"] for line in lines if "loss" in line]
        last = losses[-max(1, len(losses) // 10) :]  # one step is a noisy figure
        dev = [line["dev_loss"] for line in lines if "dev_loss" in line]
        done = self.progressed
        return ({"dev_loss": dev[-1]} if dev else {}) | {
            "loss": sum(last) / len(last),
            "steps": float(done.step),
            "tokens": float(done.tokens),
            "label_tokens": float(done.label_tokens),
            "seconds": done.seconds,
            "cpu_seconds": done.cpu_seconds,
            "peak_memory_mib": _peak_mib(),
        }


def _peak_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
