"""The training loop: plan, resume, step, save, publish."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from agentkd.errors import TrainError
from agentkd.schema import Checkpoint, TrainJob
from agentkd.train import finish, saves
from agentkd.train.anchor import prepare_anchors
from agentkd.train.body import Body
from agentkd.train.distributed import World, open_world, shard
from agentkd.train.feed import Feed
from agentkd.train.lock import exclusive
from agentkd.train.lora import adapter_parameters, add_adapter, without_dropout
from agentkd.train.loss import evaluate
from agentkd.train.memory import peak_mib
from agentkd.train.model import load_base, recompute_activations, translate
from agentkd.train.packing import make_packs
from agentkd.train.plan import keep_plan, lesson_of
from agentkd.train.policy import make_policy
from agentkd.train.prepare import build_objectives
from agentkd.train.record import Record, plan_line, predicted
from agentkd.train.reference import prepare_references
from agentkd.train.reporter import Reporter
from agentkd.train.rows import Dataset, Row, View, check_vocabulary, load_dataset, preflight
from agentkd.train.signals import TeacherSignals
from agentkd.train.step import Stepper, StepResult, learning_rate
from agentkd.train.teacher import open_signals

__all__ = ["build_objectives", "learning_rate", "train"]


def train(job: TrainJob, reporter: Reporter, should_stop: Callable[[], bool] = lambda: False) -> Checkpoint:
    """Train an adapter, or go on with a killed training, or return what is finished already.

    `should_stop` is asked after every step, and after every shard while the teacher's signals are computed; a
    stopped training is saved and raises TrainError. Under torchrun all processes call it with the same job;
    rank 0 writes.
    """
    dataset = load_dataset(job.dataset, job.settings.max_tokens_per_row)
    work = Path(f"{job.output}.partial")
    with open_world(job.settings.device) as world:
        with exclusive(work) if world.is_main else contextlib.nullcontext():
            world.wait()
            checkpoint = finish.finished(job, dataset.card)
            world.wait()
            if checkpoint is None:
                return _Training(job, dataset, work, reporter, world, should_stop).run()
            if world.is_main:
                shutil.rmtree(work, ignore_errors=True)
            return checkpoint


class _Training:
    def __init__(
        self,
        job: TrainJob,
        dataset: Dataset,
        work: Path,
        reporter: Reporter,
        world: World,
        should_stop: Callable[[], bool],
    ) -> None:
        self.job, self.dataset, self.work, self.reporter, self.world = job, dataset, work, reporter, world
        self.should_stop = should_stop
        self.lesson = lesson_of(job, dataset, reporter, world.size)
        self.objectives, self.rows, self.steps = self.lesson.objectives, self.lesson.rows, self.lesson.steps
        self.teacher = self.lesson.teacher
        self.visits = list(itertools.accumulate(map(len, self.steps), initial=0))
        for line in preflight(self.lesson.dataset, len(self.steps)):
            reporter.say(line)
        self.plan = keep_plan(job, self.lesson, work, world)
        for line in (plan_line(self.plan), *self.plan.warnings):
            reporter.say(line)
        self.record = Record(work, writes=world.is_main)
        self.progressed = saves.Progressed()
        self.body = self._make_body()
        self.pack = functools.partial(
            make_packs, max_tokens=self.plan.pack_tokens, max_pairs=self.plan.pack_pairs
        )
        devices = [self.body.device] if self.body.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws the same whatever was cached already
            self.stepper = self._make_stepper()
        for weighted in self.objectives:
            weighted.objective.prepare(len(self.steps))

    def _make_body(self) -> Body:
        """Load the model with its adapter, ready for packs."""
        settings, plan = self.job.settings, self.plan
        torch.set_num_threads(plan.threads)
        torch.manual_seed(settings.seed)
        device = self.world.device(plan.device)
        model = load_base(self.job, plan.dtype, device)
        model = add_adapter(model, settings.lora, init_adapter=self.job.init_adapter, seed=settings.seed)
        body = Body(model)
        rows = [*self.rows, *self.dataset.dev]
        check_vocabulary(rows, body.n_vocabulary, has_foreign_teacher=self.teacher.unit == "byte")
        views = [view for row in rows for view in (row.student, row.rejected, *self._own(row)) if view]
        with without_dropout(model):
            body.pack_for_training([view for view in views if view.labels])
        if settings.sharding == "fsdp":
            shard(model)
            shortest = min((view for view in views if view.labels), key=lambda view: view.n_tokens)
            with torch.no_grad():  # the first pass makes FSDP's buffers, and must not be an inference one
                body.hidden(next(iter(make_packs([shortest], shortest.n_tokens))))
        if plan.recompute:
            recompute_activations(model)
        if settings.compile:
            translate(body, [view for view in views if view.labels])
        return body

    def _own(self, row: Row) -> list[View | None]:
        """Return the views beside the student's that the student's own base reads."""
        return [row.teacher] if self.teacher.is_own else []

    def _make_stepper(self) -> Stepper:
        settings = self.job.settings
        parameters = [parameter for _, parameter in adapter_parameters(self.body.model)]
        with self.world.main_first() if settings.sharding == "none" else contextlib.nullcontext():
            signals = open_signals(
                self.job,
                self.objectives,
                self.rows,
                self.body,
                self.teacher,
                template_hash=self.dataset.card.template_hash,
                pack=self.pack,
                chunk_tokens=self.plan.chunk_tokens,
                on_rows=self._on_signals,
            )
            feed = self._make_feed(signals)
        return Stepper(
            settings=settings,
            rows=self.rows,
            steps=self.steps,
            body=self.body,
            objectives=self.objectives,
            feed=feed,
            chunk_tokens=self.plan.chunk_tokens,
            optimizer=torch.optim.AdamW(
                parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
            ),
            world=self.world,
            work=self.work,
            anchors=prepare_anchors(
                self.job,
                self.body,
                self.pack,
                chunk_tokens=self.plan.chunk_tokens,
                n_steps=len(self.steps),
            ),
        )

    def _make_feed(self, signals: TeacherSignals | None) -> Feed:
        references = prepare_references(
            self.job,
            self.objectives,
            self.rows,
            self.body,
            template_hash=self.dataset.card.template_hash,
            pack=self.pack,
            chunk_tokens=self.plan.chunk_tokens,
            signals=signals,
            say=self.reporter.say,
        )
        policy = make_policy(
            self.job,
            self.objectives,
            self.rows,
            self.steps,
            self.body,
            signals=signals,
            pack=self.pack,
            chunk_tokens=self.plan.chunk_tokens,
            agree=self.world.first,
        )
        return Feed(self.objectives, self.pack, self.body.device, signals, references, policy)

    def _on_signals(self, done: int, total: int) -> None:
        """Say how far the teacher's signals are; what is computed is kept where training is interrupted."""
        self.reporter.progress("teacher signals", done, total, "rows")
        if done < total and self.should_stop():
            raise TrainError(
                f"training was interrupted after {done} of {total} rows of its teacher's signals",
                hint="run it again: it goes on from there",
            )

    def run(self) -> Checkpoint:
        """Do the steps that are left and publish the checkpoint."""
        self._resume()
        settings, n_steps = self.job.settings, len(self.steps)
        saved_at = time.monotonic()
        for step in range(self.progressed.step, n_steps):
            seconds = self._timed_step(step)
            if self._ends_epoch(step):
                self._watch_dev(step)
            is_last = step + 1 == n_steps
            stopped = self.world.any(self.should_stop()) and not is_last
            is_due = time.monotonic() - saved_at + seconds > settings.save_every_seconds
            if stopped or (is_due and not is_last):
                self._save()
                saved_at = time.monotonic()
            if stopped:
                raise TrainError(
                    f"training was interrupted after step {step + 1} of {n_steps}",
                    hint="run it again: it goes on from there",
                )
        return self._publish()

    def _timed_step(self, step: int) -> float:
        started, cpu = time.monotonic(), time.process_time()
        self.world.reseed(self.job.settings.seed, step)
        result = self.stepper.run(step)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
        done = self.progressed
        done.step, done.loss = step + 1, result.loss
        done.tokens += result.n_tokens
        done.label_tokens += result.n_labels
        done.seconds += seconds
        done.cpu_seconds += cpu_seconds
        self._log(step, result, seconds, cpu_seconds)
        return seconds

    def _save(self) -> None:
        if self.world.is_main:
            states = {w.objective.name: w.objective.state_dict() for w in self.objectives}
            saves.save(
                self.work,
                self.progressed,
                self.body.model,
                self.stepper.optimizer,
                states,
                keep_last=self.job.settings.keep_last,
            )

    def _publish(self) -> Checkpoint:
        if self.world.is_main:
            metrics = self.record.figures(self.progressed, self.plan.device) | predicted(self.plan)
            finish.publish(self.job, self.dataset.card, self.work, self.body.model, metrics)
        self.world.wait()
        checkpoint = finish.finished(self.job, self.dataset.card)
        if checkpoint is None:
            raise TrainError(f"`{self.job.output}` is not there after rank 0 wrote it")
        return checkpoint

    def _resume(self) -> None:
        saved = saves.latest(self.work)
        if saved is not None:
            self.progressed, states = saves.restore(saved, self.body.model, self.stepper.optimizer)
            for weighted in self.objectives:
                weighted.objective.load_state_dict(states[weighted.objective.name])
            self.reporter.say(f"going on after step {self.progressed.step} of {len(self.steps)}")
        self.record.go_back_to(self.progressed.step)

    def _log(self, step: int, result: StepResult, seconds: float, cpu_seconds: float) -> None:
        n_steps, done = len(self.steps), self.progressed
        if (step + 1) % self.job.settings.loss_rows_logged == 0 or step + 1 == n_steps:
            self.record.append(
                {
                    "step": step + 1,
                    "loss": result.loss,
                    "task_loss": result.task_loss,
                    "terms": result.terms,
                    "lr": self.stepper.optimizer.param_groups[0]["lr"],
                    "grad_norm": result.grad_norm,
                    "tokens": result.n_tokens,
                    "computed_tokens": result.n_computed,
                    "label_tokens": result.n_labels,
                    "seconds": round(seconds, 4),
                    "cpu_seconds": round(cpu_seconds, 4),
                    "rss_mib": round(peak_mib(self.plan.device), 1),
                }
            )
        speed = done.tokens / max(done.seconds, 1e-9)
        left = (n_steps - step - 1) * done.seconds / (step + 1)
        note = f"loss {result.loss:.3f}, {speed:.0f} tokens/s, {left:.0f} s left"
        self.reporter.progress("train", step + 1, n_steps, "steps", note)

    def _ends_epoch(self, step: int) -> bool:
        """Whether a whole pass over the rows, or the training, ends with this step."""
        before, after, n = self.visits[step], self.visits[step + 1], len(self.rows)
        return before // n != after // n or step + 1 == len(self.steps)

    def _watch_dev(self, step: int) -> None:
        views = [row.student for row in self.dataset.dev if row.student.labels]
        if views and (self.world.is_main or self.job.settings.sharding != "none"):
            packs = list(self.pack(views))
            with without_dropout(self.body.model):
                loss = evaluate(self.body, packs, self.plan.chunk_tokens)
            self.record.append({"step": step + 1, "dev_loss": loss})
            self.reporter.say(f"step {step + 1}: loss of the dev rows {loss:.4f}")
