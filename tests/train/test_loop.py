"""A training learns, can be killed at any time, and ends in one whole checkpoint."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agentkd import hf
from agentkd.errors import CheckpointError, ConfigError, LockedError, TrainError
from agentkd.schema import Checkpoint, Example, LoraSettings, TrainJob
from agentkd.train import saves
from agentkd.train.lock import exclusive
from agentkd.train.loop import learning_rate, train
from agentkd.train.lora import add_adapter
from agentkd.train.reporter import Reporter

MakeJob = Callable[..., TrainJob]
WEIGHTS = "adapter_model.safetensors"


def run(job: TrainJob, stop_after: int = 10**9) -> Checkpoint:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= stop_after

    return train(job, Reporter(is_machine=True, out=io.StringIO()), should_stop)


def lines_of(job: TrainJob) -> list[dict[str, float]]:
    text = (Path(job.output) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_training_learns_and_leaves_a_whole_checkpoint(make_job: MakeJob) -> None:
    job = make_job(epochs=6.0)
    checkpoint = run(job)
    steps = [line for line in lines_of(job) if "loss" in line]
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert len([line for line in lines_of(job) if "dev_loss" in line]) == 6
    assert all(line["computed_tokens"] < line["tokens"] for line in steps)
    assert checkpoint.metrics["steps"] == len(steps)
    assert checkpoint.metrics["loss"] == pytest.approx(steps[-1]["loss"], rel=0.5)
    assert set(checkpoint.files) == {WEIGHTS, "adapter_config.json", "metrics.jsonl"}
    assert not Path(f"{job.output}.partial").exists()
    assert hf.read_adapter(job.output).r == 4
    assert {file.name for file in Path(job.output).parent.iterdir()} >= {"out", "dataset"}


def test_a_finished_training_is_returned_as_it_is(make_job: MakeJob) -> None:
    job = make_job()
    first = run(job)
    changed = (Path(job.output) / WEIGHTS).stat().st_mtime_ns
    assert run(job) == first
    assert (Path(job.output) / WEIGHTS).stat().st_mtime_ns == changed


def test_an_output_of_other_settings_is_not_overwritten(make_job: MakeJob) -> None:
    run(make_job())
    with pytest.raises(TrainError, match="another dataset, base or settings"):
        run(make_job(seed=1))


def test_a_damaged_checkpoint_is_noticed(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    with (Path(job.output) / WEIGHTS).open("ab") as weights:
        weights.write(b"x")
    with pytest.raises(CheckpointError, match="differs from its sha256"):
        run(job)


def test_a_foreign_folder_is_not_touched(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainError, match="is no checkpoint"):
        run(make_job())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stopped_training_goes_on_bit_by_bit(make_job: MakeJob, dropout: float) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": dropout}
    whole, cut = make_job("whole", lora=lora), make_job("cut", lora=lora)
    run(whole)
    for step in (3, 2):
        with pytest.raises(TrainError, match="was interrupted"):
            run(cut, stop_after=step)
    run(cut)
    assert (Path(cut.output) / WEIGHTS).read_bytes() == (Path(whole.output) / WEIGHTS).read_bytes()
    keep = ("step", "loss", "dev_loss", "lr", "grad_norm")
    facts = [[{k: line[k] for k in keep if k in line} for line in lines_of(job)] for job in (whole, cut)]
    assert facts[0] == facts[1]


def test_a_killed_process_goes_on_bit_by_bit(make_job: MakeJob, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    whole, cut = make_job("whole", save_every_seconds=0.0), make_job("cut", save_every_seconds=0.0)
    run(whole)
    spec = tmp_path / "spec.json"
    spec.write_text(cut.model_dump_json())
    command = [sys.executable, "-c", _IN_PROCESS.format(threads=threads), str(spec), "--events"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["done"] >= 4:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    saved = saves.latest(Path(f"{cut.output}.partial"))
    assert saved is not None
    assert not Path(cut.output).exists()
    run(cut)
    assert (Path(cut.output) / WEIGHTS).read_bytes() == (Path(whole.output) / WEIGHTS).read_bytes()


_IN_PROCESS = """
import sys, torch
torch.set_num_threads({threads})
from agentkd.train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_two_saves_are_kept_and_a_damaged_one_is_passed_over(make_job: MakeJob) -> None:
    whole, cut = make_job("whole"), make_job("cut", save_every_seconds=0.0)
    run(whole)
    with pytest.raises(TrainError, match="was interrupted"):
        run(cut, stop_after=5)
    work = Path(f"{cut.output}.partial")
    older, newer = sorted(work.glob("step-*"))
    with (newer / "tensors.safetensors").open("r+b") as tensors:
        tensors.seek(-5, 2)
        tensors.write(b"\xff")
    assert saves.latest(work) == older
    run(cut)
    assert (Path(cut.output) / WEIGHTS).read_bytes() == (Path(whole.output) / WEIGHTS).read_bytes()


def test_as_many_saves_are_kept_as_the_settings_say(make_job: MakeJob) -> None:
    job = make_job(save_every_seconds=0.0, keep_last=1)
    with pytest.raises(TrainError, match="was interrupted"):
        run(job, stop_after=4)
    assert [path.name for path in Path(f"{job.output}.partial").glob("step-*")] == ["step-000004"]


def test_what_is_left_of_another_job_is_not_gone_on_from(make_job: MakeJob) -> None:
    with pytest.raises(TrainError, match="was interrupted"):
        run(make_job("out", seed=1), stop_after=2)
    run(make_job("out"))
    run(make_job("fresh"))
    out, fresh = (Path(make_job(name).output) / WEIGHTS for name in ("out", "fresh"))
    assert out.read_bytes() == fresh.read_bytes()


def test_only_one_process_trains_a_checkpoint(tmp_path: Path) -> None:
    with exclusive(tmp_path / "out.partial"):
        with pytest.raises(LockedError, match="is training"):
            with exclusive(tmp_path / "out.partial", wait_seconds=0.0):
                pass
    with exclusive(tmp_path / "out.partial", wait_seconds=0.0):
        pass


def test_training_goes_on_from_an_adapter(make_job: MakeJob) -> None:
    first = make_job("first", epochs=6.0)
    run(first)
    second = make_job("second", init_adapter=first.output)
    checkpoint = run(second)
    assert checkpoint.parent == "first"
    with pytest.raises(TrainError, match="from another adapter"):
        run(make_job("second"))  # the same but for its start
    start = next(line["loss"] for line in lines_of(second) if "loss" in line)
    assert start < 0.7 * next(line["loss"] for line in lines_of(first) if "loss" in line)


def test_a_training_that_goes_on_says_and_records_the_shape_that_its_adapter_has(make_job: MakeJob) -> None:
    first = make_job("first", epochs=0.5)
    run(first)
    other = LoraSettings(r=64, alpha=8, variant="dora", dropout=0.1)
    second = make_job("second", epochs=0.5, init_adapter=first.output, lora=other)
    out = io.StringIO()
    lora = train(second, Reporter(is_machine=True, out=out)).settings.lora
    assert (lora.r, lora.alpha, lora.variant, lora.dropout) == (4, 8, "lora", 0.1)
    assert "`[train.lora]` shape, variant and init are its own" in out.getvalue()
    manifest = Path(second.output) / "checkpoint.json"
    before = json.loads(manifest.read_text()) | {"settings": second.settings.model_dump(mode="json")}
    manifest.write_text(json.dumps(before))
    assert run(second).settings == second.settings, "what was recorded as it was asked for is finished, too"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_training_that_goes_on_has_its_own_dropout(make_job: MakeJob, dropout: float) -> None:
    first = make_job("first", lora=LoraSettings(r=4, alpha=8, dropout=0.1))
    run(first)
    model = add_adapter(
        hf.load_model(first.base, dtype="float32", device="cpu"),
        LoraSettings(r=4, alpha=8, dropout=dropout), init_adapter=first.output, seed=0,
    )  # fmt: skip
    layers = [each for m in model.modules() for each in getattr(m, "lora_dropout", {}).values()]
    found = {getattr(layer, "p", 0.0) for layer in layers}
    assert found == {dropout}


def test_a_loss_that_is_not_finite_stops_with_its_rows(make_job: MakeJob) -> None:
    job = make_job(learning_rate=1e30, warmup_share=0.0)
    with pytest.raises(TrainError, match="is not finite"):
        run(job)
    bad = json.loads((Path(f"{job.output}.partial") / "bad-step.json").read_text())
    assert bad["rows"][0]["id"].startswith("ex-")
    assert not Path(job.output).exists()


def test_a_step_that_fails_names_its_rows_and_keeps_the_last_good_save(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = PLUGIN.replace(
        "self.calls += 1", "self.calls += 1; scale = float('nan') if context.step == 3 else 1.0"
    )
    late = late.replace("/ context.normaliser}", "* scale / context.normaliser}")
    (tmp_path / "late_objective.py").write_text(late)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = make_job(objective={"squared": {}}, plugins=("late_objective",), save_every_seconds=0.0)
    with pytest.raises(TrainError, match=r"step 4 is not finite.*its rows are `ex-") as raised:
        run(job)
    assert "bad-step.json" in raised.value.hint
    assert "last good save is kept" in raised.value.hint
    saved = saves.latest(Path(f"{job.output}.partial"))
    assert saved is not None
    assert saved.name == "step-000003"
    job = make_job("unsaved", objective={"squared": {}}, plugins=("late_objective",))
    with pytest.raises(TrainError) as raised:
        run(job)
    assert saves.latest(Path(f"{job.output}.partial")) is None
    assert "is kept" not in raised.value.hint


def test_the_row_at_fault_is_found_and_written_down_whole(
    make_job: MakeJob, write_dataset: Callable[..., Path], make_example: Callable[..., Example],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    odd = PLUGIN.replace("said.square()", "(said / (context.targets != 333).float()).square()")
    (tmp_path / "odd_objective.py").write_text(odd)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [make_example(n, teacher=True) for n in range(8)]
    views = {name: getattr(rows[5], name) for name in ("student", "teacher")}
    changed = {name: view.model_copy(update={"ids": (*view.ids[:-1], 333)}) for name, view in views.items()}
    rows[5] = rows[5].model_copy(update=changed)
    job = make_job(
        dataset=write_dataset(rows, name="odd"), objective={"squared": {}}, plugins=("odd_objective",),
        tokens_per_step=10_000, epochs=1.0,
    )  # fmt: skip
    with pytest.raises(TrainError, match=r"by `ex-5`: each is so by itself") as raised:
        run(job)
    assert all(f"`ex-{n}`" not in raised.value.message for n in range(8) if n != 5)
    bad = json.loads((Path(f"{job.output}.partial") / "bad-step.json").read_text())
    assert bad["faulty"] == ["ex-5"]
    (written,) = [row for row in bad["rows"] if row["id"] == "ex-5"]
    assert (written["ids"][-1], written["weights"], len(written["labels"])) == (333, [1.0] * 4, 4)
    assert written["teacher"]["ids"] == list(rows[5].teacher.ids)


@pytest.fixture
def taught(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> Path:
    return write_dataset([make_example(n, teacher=n % 4 != 0) for n in range(16)], name="taught")


def test_self_context_brings_the_student_to_its_teacher(make_job: MakeJob, taught: Path) -> None:
    job = make_job(dataset=taught, objective={"self-context": {"top_k": 8}}, epochs=8.0)
    run(job)
    steps = [line["terms"]["self-context"] for line in lines_of(job) if "terms" in line]
    assert steps[-1] < 0.5 * steps[0]
    assert list((taught / "signals").glob("*/*.safetensors"))


def test_objectives_are_mixed_by_weight(make_job: MakeJob, taught: Path, tmp_path: Path) -> None:
    mixed = {"sft": {"weight": 0.25}, "self-context": {}}
    job = make_job(dataset=taught, objective=mixed, signals=str(tmp_path / "shared"))
    run(job)
    assert set(lines_of(job)[0]["terms"]) == {"sft", "self-context"}
    assert list((tmp_path / "shared").glob("*/*.safetensors"))


def test_self_context_needs_teacher_views(make_job: MakeJob) -> None:
    with pytest.raises(TrainError, match="none"):
        run(make_job(objective={"self-context": {}}))


@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        ({"stf": {}}, "did you mean `sft`"),
        ({"self-context": {"topk": 3}}, "did you mean `top_k`"),
        ({"sft": {"weight": -1}}, "positive number"),
        ({}, "names no objective"),
    ],
)
def test_wrong_objectives_are_refused_by_name(
    make_job: MakeJob, objective: dict[str, dict[str, float]], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run(make_job(objective=objective))


PLUGIN = """
from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component

class Squared:
    name = "squared"
    requires = frozenset()
    def __init__(self): self.calls = 0
    def prepare(self, n_steps): pass
    def forward(self, context):
        self.calls += 1
        said = context.logits.log_softmax(-1).gather(1, context.targets[:, None])[:, 0]
        return {"squared": (said.square() * context.weights).sum() / context.normaliser}
    def state_dict(self): return {"calls": self.calls}
    def load_state_dict(self, state): self.calls = state["calls"]

@hookimpl
def components():
    yield Component("objective", "squared", "Squares.", lambda settings, kit: Squared())
"""


def test_a_plugin_brings_an_objective_whose_state_is_kept(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squared_objective.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = make_job(objective={"squared": {}}, plugins=("squared_objective",))
    with pytest.raises(TrainError, match="was interrupted"):
        run(job, stop_after=3)
    state = json.loads(next(Path(f"{job.output}.partial").glob("step-*/state.json")).read_text())
    assert state["objectives"]["squared"]["calls"] >= 3
    run(job)
    steps = [line for line in lines_of(job) if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_the_rate_warms_up_and_decays_to_a_tenth() -> None:
    rates = [learning_rate(step, 100, peak=1.0, warmup_share=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, 1, peak=1.0, warmup_share=0.0) == pytest.approx(1.0)


def test_bfloat16_trains_with_a_float32_adapter(make_job: MakeJob) -> None:
    job = make_job(dtype="bfloat16", epochs=4.0)
    run(job)
    steps = [line["loss"] for line in lines_of(job) if "loss" in line]
    assert steps[-1] < 0.8 * steps[0]
    assert {tensor.dtype for tensor in hf.read_adapter(job.output).tensors.values()} == {torch.float32}
    shutil.rmtree(job.output)
