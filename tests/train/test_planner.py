"""The plan of a training: honest figures before it starts, sizes that fit, advice with reasons."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import ConfigError, MissingExtraError, TrainError
from agentkd.schema import Example, LoraSettings, Rendered, TrainJob, TrainPlan, TrainSettings
from agentkd.train import LoraTrainer
from agentkd.train.advisor import advise
from agentkd.train.artefact import RowSignals, signal_bytes
from agentkd.train.body import Body
from agentkd.train.loop import train
from agentkd.train.lora import add_adapter, without_dropout
from agentkd.train.memory import memory_limit_mib
from agentkd.train.model import check_settings, recompute_activations, translate
from agentkd.train.objectives.hidden import Relations, RelationsSettings
from agentkd.train.objectives.sinkhorn import Sinkhorn, SinkhornSettings
from agentkd.train.packing import make_packs
from agentkd.train.plan import plan
from agentkd.train.planner import Fit, Load, fit, measure_load
from agentkd.train.prepare import build_objectives
from agentkd.train.probe import Living
from agentkd.train.reporter import Reporter
from agentkd.train.rows import View, load_dataset
from agentkd.train.shape import adapter_settings, shape_of
from agentkd.train.shards import read_shard

MakeJob = Callable[..., TrainJob]
MakeView = Callable[[list[int], int], View]


def quiet() -> Reporter:
    return Reporter(is_machine=True, out=io.StringIO())


@pytest.fixture
def taught(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> Path:
    return write_dataset([make_example(n, teacher=n % 4 != 0) for n in range(16)], name="taught")


def test_a_plan_says_what_the_training_then_does(make_job: MakeJob) -> None:
    job = make_job(lora=LoraSettings(r=4, alpha=8))
    wanted = plan(job, quiet())
    assert not Path(f"{job.output}.partial").exists()
    done = train(job, quiet())
    assert (wanted.n_steps, wanted.n_parameters) == (done.metrics["steps"], done.n_parameters)
    assert wanted.n_tokens == done.metrics["tokens"]
    assert wanted.n_label_tokens == done.metrics["label_tokens"]
    lines = [json.loads(line) for line in (Path(job.output) / "metrics.jsonl").read_text().splitlines()]
    assert wanted.n_computed_tokens == sum(line.get("computed_tokens", 0) for line in lines)
    assert done.metrics["predicted_memory_mib"] > sum(wanted.memory_parts.values()) * 0.5
    assert done.metrics["predicted_seconds"] >= 0
    assert wanted.objectives == {"sft": ()}


def test_a_plan_tells_cached_teacher_signals_from_missing_ones(
    make_job: MakeJob, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(dataset=taught, objective={"self-context": {"top_k": 8}}, epochs=1.0)
    before = plan(job, quiet())
    assert (before.signals_cached, before.signals_missing) == (0, 12)
    assert before.signals_seconds > 0
    assert before.teacher == "base"
    assert before.objectives == {"self-context": ("teacher-top-k",)}
    train(job, quiet())
    monkeypatch.setattr("safetensors.numpy.load", None)  # a count needs no tensors
    after = plan(job, quiet())
    assert (after.signals_cached, after.signals_missing, after.signals_seconds) == (12, 0, 0.0)


def test_a_plan_counts_the_signals_that_are_held(make_job: MakeJob, taught: Path) -> None:
    job = make_job(dataset=taught, objective={"self-context": {"top_k": 8}}, epochs=1.0)
    train(job, quiet())
    shards = [
        read_shard(file, [field.name for field in fields(RowSignals)])
        for file in taught.parent.rglob("*.safetensors")
    ]
    held = sum(array.nbytes for shard in shards if shard for array in shard.tensors.values())
    views = [row.teacher for row in load_dataset(taught, job.settings.max_tokens_per_row).train]
    assert 0 < signal_bytes(8, views) == held
    assert signal_bytes(0, views) == 0
    wanted = plan(job, quiet())
    assert wanted.memory_parts["signals"] == round(held / 2**20, 1)
    assert "signals" not in plan(make_job(dataset=taught, objective={"sft": {}}), quiet()).memory_parts


def test_who_asks_to_stop_is_heard_while_signals_are_computed(
    make_job: MakeJob, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkd.train.artefact._ROWS_PER_SHARD", 5)
    job = make_job(dataset=taught, objective={"self-context": {"top_k": 8}}, epochs=1.0)
    with pytest.raises(TrainError, match="after 5 of 12 rows of its teacher's signals"):
        train(job, quiet(), lambda: True)
    left = plan(job, quiet())
    assert (left.signals_cached, left.signals_missing) == (5, 7)
    assert train(job, quiet()).metrics["steps"] == left.n_steps


def test_the_parent_gets_a_plan_from_a_process_of_its_own(make_job: MakeJob) -> None:
    job = make_job()
    found = LoraTrainer().plan(job)
    assert isinstance(found, TrainPlan)
    assert found.n_rows == 24
    assert not Path(job.output).parent.joinpath("out.partial").exists()


def test_less_memory_makes_smaller_packs_and_at_last_refuses(make_job: MakeJob, make_view: MakeView) -> None:
    job = make_job()
    config, shape = shape_of(job)
    views = [make_view([n, *range(20, 320)], 200) for n in range(40)]

    def sizes(max_memory: float) -> tuple[int, int, bool]:
        limited = job.model_copy(
            update={"settings": job.settings.model_copy(update={"max_memory": max_memory})}
        )
        found = fit(
            limited, shape, config, views, [tuple(range(40))],
            lambda rows, tokens, pairs: make_packs([views[row] for row in rows], tokens, pairs),
            device="cpu", dtype="float32", n_labels=40 * 200, imports=400.0,
        )  # fmt: skip
        assert found.memory_mib <= max_memory * 1024
        return found.pack_tokens, found.chunk_tokens, found.recompute

    roomy = fit(
        job, shape, config, views, [tuple(range(40))],
        lambda rows, tokens, pairs: make_packs([views[row] for row in rows], tokens, pairs),
        device="cpu", dtype="float32", n_labels=40 * 200, imports=400.0,
    )  # fmt: skip
    assert (roomy.pack_tokens, roomy.recompute) == (3072, False)
    fixed = roomy.parts["imports"] + roomy.parts["weights"] + roomy.parts["adapter"]
    moving = roomy.parts["activations"] + roomy.parts["logits"]
    tight = sizes((fixed + 40 + moving / 3) / 1024)
    assert tight[0] < 3072
    with pytest.raises(TrainError, match="at its smallest"):
        sizes(0.01)


def test_activations_are_recomputed_only_where_nothing_else_fits(
    make_job: MakeJob, make_view: MakeView
) -> None:
    job = make_job()
    config, shape = shape_of(job)
    view = make_view([n % 200 + 20 for n in range(1800)], 20)

    def fitted(mode: str, max_memory: float) -> Fit:
        update = {"gradient_checkpointing": mode, "max_memory": max_memory}
        limited = job.model_copy(update={"settings": job.settings.model_copy(update=update)})
        return fit(
            limited, shape, config, [view], [(0,)], lambda rows, t, p: make_packs([view], t, p),
            device="cpu", dtype="float32", n_labels=20, imports=400.0,
        )  # fmt: skip

    kept, again = fitted("off", 100.0), fitted("on", 100.0)
    assert again.parts["activations"] < 0.7 * kept.parts["activations"]
    assert again.seconds > 0
    between = (kept.memory_mib + again.memory_mib) / 2 / 1024
    assert fitted("auto", between).recompute
    assert not fitted("auto", 100.0).recompute
    with pytest.raises(TrainError, match="at its smallest"):
        fitted("off", between)


def test_the_load_counts_what_is_computed(make_view: MakeView) -> None:
    views = [make_view([1, 2, 3, 4, 5, 6, 7, 8, n], 1) for n in range(10, 14)]
    load = measure_load(
        [(0, 1), (2, 3)], lambda rows, t, p: make_packs([views[r] for r in rows], t, p), 4096, 1 << 20
    )
    assert (load.largest, load.n_computed, load.most_labels) == (8, 16, 2)


def test_a_sample_of_the_steps_never_misses_the_heaviest_rows(make_view: MakeView) -> None:
    views = [make_view([1, 2, 3, 4, n], 1) for n in range(10, 210)]
    views[34] = make_view([n % 200 + 20 for n in range(300)], 1)
    views[77] = make_view([n % 200 + 20 for n in range(250)], 249)
    steps = [(row,) for row in range(len(views))]
    assert len(steps) > 128, "such a job is sampled"

    def load(heaviest: Collection[int]) -> Load:
        return measure_load(
            steps, lambda rows, t, p: make_packs([views[r] for r in rows], t, p), 128, 1 << 20, heaviest
        )

    found, sampled = load({34, 77}), load(())
    assert (sampled.largest, sampled.most_labels) == (4, 1), "the sample alone has none of them"
    assert (found.largest, found.most_labels) == (299, 249)
    assert found.most_pairs > 100 * sampled.most_pairs
    assert found.n_computed == sampled.n_computed, "what is rare does not count for all"


def test_the_plan_of_a_long_job_knows_its_longest_row(
    make_job: MakeJob, write_dataset: Callable[..., Path], make_example: Callable[..., Example]
) -> None:
    rows = [make_example(n) for n in range(200)]
    target = rows[34].student.ids[-3:]
    ids = (*(20 + n % 150 for n in range(400)), *target)
    long = Rendered(ids=ids, weights=(0.0,) * 400 + (1.0,) * 3)

    def activations(job: TrainJob) -> float:
        return plan(job, quiet()).memory_parts["activations"]

    settings = {"tokens_per_step": 16, "epochs": 1.0}
    alike = make_job(dataset=write_dataset(rows, name="alike"), **settings)
    rows[34] = rows[34].model_copy(update={"student": long})
    assert activations(make_job(dataset=write_dataset(rows, name="one-long"), **settings)) > 3 * activations(
        alike
    )


def test_under_fsdp_a_process_holds_its_share_of_the_layers(make_job: MakeJob, make_view: MakeView) -> None:
    view = make_view([1, 5, 6, 7, 2], 2)

    def parts(sharding: str, processes: int) -> dict[str, float]:
        job = make_job(sharding=sharding)
        config, shape = shape_of(job)
        assert 0 < shape.n_in_layers < shape.n_base
        return fit(
            job, shape, config, [view], [(0,)], lambda rows, t, p: make_packs([view], t, p),
            device="cpu", dtype="float32", n_labels=2, imports=400.0, processes=processes,
        ).parts  # fmt: skip

    config, shape = shape_of(make_job())
    whole, split = parts("none", 4)["weights"], parts("fsdp", 4)
    layers = shape.n_in_layers * 4 / 2**20
    one_whole = layers * (3 / 4) / config.num_hidden_layers
    assert whole == pytest.approx(shape.n_base * 4 / 2**20)
    assert split["weights"] == pytest.approx(whole - layers * 3 / 4 + one_whole)
    together = sum(
        split[name] for name in ("weights", "activations", "logits", "models before the first step")
    )
    assert together >= whole, "each process loads the whole base once"


def test_four_bits_are_those_of_the_layers_alone(make_job: MakeJob, make_view: MakeView) -> None:
    view = make_view([1, *range(5, 200), 2], 2)
    _, shape = shape_of(make_job())

    def parts(quantise: str) -> dict[str, float]:
        job = make_job(quantise=quantise)
        config, shape = shape_of(job)
        return fit(
            job, shape, config, [view], [(0,)], lambda rows, t, p: make_packs([view], t, p),
            device="cpu", dtype="bfloat16", n_labels=2, imports=400.0,
        ).parts  # fmt: skip

    plain, found = parts("none"), parts("nf4")
    n_rest = shape.n_base - shape.n_in_layers  # bitsandbytes leaves embeddings and head as they are
    assert found["weights"] == pytest.approx((0.6 * shape.n_in_layers + 2 * n_rest) / 2**20)
    assert found["activations"] > plain["activations"], "such layers keep peft's own forward"


def test_processes_on_a_cpu_share_its_memory(make_job: MakeJob) -> None:
    fixed, free = make_job(max_memory=8.0), make_job()
    assert [memory_limit_mib(fixed, "cpu", n) for n in (1, 4)] == [8192.0, 2048.0]
    assert memory_limit_mib(fixed, "cuda", 4) == 8192.0, "there each has its own"
    assert memory_limit_mib(free, "cpu", 4) == pytest.approx(memory_limit_mib(free, "cpu") / 4, rel=0.1)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the figure is Linux'")
def test_the_peak_of_a_training_leaves_out_the_process_that_began_it() -> None:
    held = b"x" * 2**30  # `ru_maxrss` of a child begins with what its parent held
    ask = (
        "from agentkd.train.memory import peak_mib, resident_mib\n"
        "once = bytearray(b'x' * 2**26)\ndel once\n"
        "now = resident_mib()\nprint(peak_mib('cpu'), now)\n"
    )
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    peak, now = map(float, told.split())
    assert len(held) / 2**20 > peak > now + 60, "what it held once and gave back counts"


def test_the_plan_of_a_continued_training_knows_its_adapter(make_job: MakeJob) -> None:
    lora = LoraSettings(r=32, alpha=64, target_modules=("q_proj", "down_proj"), variant="dora")
    first = make_job("first", lora=lora)
    trained = train(first, quiet())
    assert plan(first, quiet()).n_parameters == trained.n_parameters, "magnitudes are trained too"
    job = make_job("second", init_adapter=first.output)
    assert plan(job, quiet()).n_parameters == trained.n_parameters
    known = adapter_settings(job)
    assert (known.r, sorted(known.target_modules), known.variant) == (32, ["down_proj", "q_proj"], "dora")
    assert adapter_settings(first) == lora


@pytest.mark.parametrize(
    ("settings", "processes", "why"),
    [
        ({"objective": {"taid": {}}}, 2, "`taid` learns from all chunks"),
        ({"sharding": "fsdp"}, 1, "needs several processes"),
        ({"lora": LoraSettings(r=4, init="pissa", dropout=0.1)}, 1, "goes with neither"),
        (
            {"objective": {"self-context": {"policy": "on"}}, "teacher": "path:x"},
            1,
            "cannot learn from samples",
        ),
        (
            {"objective": {"selective": {"objective": "sft", "reference": "/nowhere"}}},
            1,
            "`start`, `base` or an adapter folder",
        ),
    ],
)
def test_a_plan_refuses_what_training_refuses(
    make_job: MakeJob, taught: Path, settings: dict[str, Any], processes: int, why: str
) -> None:
    job = make_job(dataset=taught, **settings)
    with pytest.raises(ConfigError, match=why):
        plan(job, quiet(), processes=processes)


@pytest.mark.parametrize("name", ["sinkhorn", "minilm-relations"])
def test_a_loss_on_whole_rows_takes_the_logits_of_the_longest(
    make_job: MakeJob, make_view: MakeView, name: str
) -> None:
    long = make_view([n % 200 + 20 for n in range(1000)], 900)

    def logits(objective: str) -> float:
        job = make_job(objective={objective: {}}, chunk_tokens=64)
        config, shape = shape_of(job)
        return fit(
            job, shape, config, [long], [(0,)], lambda rows, t, p: make_packs([long], t, p),
            device="cpu", dtype="float32", n_labels=900, imports=400.0, objectives=build_objectives(job),
        ).parts["logits"]  # fmt: skip

    _, shape = shape_of(make_job())
    rows = {"sinkhorn": 3 * 4 * 900**2 * 21, "minilm-relations": 6 * 4 * 900**2 * 8}[name]
    more = (900 - 64) * shape.n_vocabulary * 4 * 6 + rows
    assert logits(name) - logits("forward-kl") == pytest.approx(more / 2**20)


def test_what_a_loss_on_whole_rows_says_it_takes_is_what_it_takes() -> None:
    n, width = 200, 64
    top = torch.randn(n, width).log_softmax(-1).topk(20)
    seen = SimpleNamespace(
        logits=torch.randn(n, width, requires_grad=True), hidden=torch.randn(n, width, requires_grad=True),
        teacher_hidden=torch.randn(n, width), rows=torch.zeros(n, dtype=torch.int64), weights=torch.ones(n),
        teacher_top_ids=top.indices, teacher_top_log_probs=top.values, normaliser=float(n),
    )  # fmt: skip
    for objective in (Sinkhorn(SinkhornSettings()), Relations(RelationsSettings())):
        with Living() as living:
            sum(objective.forward(seen).values()).backward()
        assert living.most == pytest.approx(objective.row_bytes(n), rel=0.25)


def test_the_scores_of_a_row_longer_than_those_probed_are_counted(
    make_job: MakeJob, make_view: MakeView
) -> None:
    job = make_job()
    config, shape = shape_of(job)
    long = make_view([n % 200 + 20 for n in range(1200)], 20)
    short = [make_view([n, *range(20, 50)], 5) for n in range(40)]

    def activations(views: list[View]) -> float:
        return fit(
            job, shape, config, views, [(0,)], lambda rows, t, p: make_packs([long], t, p),
            device="cpu", dtype="float32", n_labels=20, imports=400.0,
        ).parts["activations"]  # fmt: skip

    assert activations([*short, long]) == pytest.approx(activations([long]), rel=0.25)


def test_the_plan_counts_the_general_text_of_every_step(make_job: MakeJob, make_view: MakeView) -> None:
    view = make_view([1, 5, 6, 7, 2], 2)

    def fitted(weight: float) -> Fit:
        job = make_job(tokens_per_step=200, anchor={"weight": weight})
        config, shape = shape_of(job)
        return fit(
            job, shape, config, [view], [(0,), (0,)], lambda rows, t, p: make_packs([view], t, p),
            device="cpu", dtype="float32", n_labels=4, imports=400.0,
        )  # fmt: skip

    held, free = fitted(1.0), fitted(0.0)
    assert (free.load.largest, free.load.n_computed, free.load.most_labels, free.load.n_general) == (
        4,
        8,
        2,
        0,
    )
    assert (held.load.largest, held.load.n_computed, held.load.most_labels, held.load.n_general) == (
        30,
        8,
        30,
        60,
    )
    assert held.memory_mib > free.memory_mib
    assert held.seconds > 2 * free.seconds


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients(
    base: Path, make_view: MakeView, dropout: float
) -> None:
    views = [make_view([1, 5, *range(n, n + 8 + n % 5), 2], 3) for n in range(20, 28)]
    found = []
    for recompute in (False, True):
        settings = LoraSettings(r=4, alpha=8, dropout=dropout)
        model = add_adapter(hf.load_model(base, "float32", "cpu"), settings, init_adapter="", seed=0)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.data.normal_(std=0.05)
        body = Body(model)
        with without_dropout(model):
            body.pack_for_training(views)
        if recompute:
            recompute_activations(model)
        for pack in make_packs(views, 4096):
            body.hidden(pack).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(found[0].norm()) > 0
    assert torch.equal(found[0], found[1])


def test_the_settings_decide_whether_activations_are_recomputed(make_job: MakeJob) -> None:
    on, off = make_job("on", gradient_checkpointing="on"), make_job("off", gradient_checkpointing="off")
    assert plan(on, quiet()).recompute
    assert not plan(off, quiet()).recompute
    train(on, quiet())
    train(off, quiet())
    weights = [(Path(job.output) / "adapter_model.safetensors").read_bytes() for job in (on, off)]
    assert weights[0] == weights[1]


def test_other_limits_of_memory_keep_the_saves(make_job: MakeJob) -> None:
    asked = 0

    def third() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    first = make_job()
    with pytest.raises(TrainError, match="was interrupted"):
        train(first, quiet(), third)
    out = io.StringIO()
    train(make_job(gradient_checkpointing="on"), Reporter(is_machine=True, out=out))
    assert "going on after step 3" in out.getvalue()


def test_four_bits_are_refused_on_a_cpu_before_anything_is_loaded(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        train(make_job(quantise="nf4"), quiet())


def test_four_bits_without_the_package_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="bitsandbytes"):
        check_settings(TrainSettings(quantise="nf4"), "cuda")


@pytest.mark.gpu
def test_a_base_in_four_bits_learns(make_job: MakeJob) -> None:
    pytest.importorskip("bitsandbytes")
    job = make_job(quantise="nf4", device="cuda", dtype="bfloat16", epochs=6.0)
    train(job, quiet())
    lines = [json.loads(line) for line in (Path(job.output) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_translated_layers_are_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match="for CUDA alone") as caught:
        check_settings(TrainSettings(compile=True), "cpu")
    assert "compile = false" in caught.value.hint


@pytest.mark.parametrize("is_right", [True, False])
def test_a_translation_with_other_gradients_is_refused(
    base: Path, make_view: MakeView, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    views = [make_view([1, 5, *range(n, n + 8), 2], 3) for n in range(20, 24)]
    model = add_adapter(hf.load_model(base, "float32", "cpu"), LoraSettings(r=4), init_adapter="", seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    body = Body(model)
    body.pack_for_training(views)

    def translated(forward: Callable[..., torch.Tensor], dynamic: bool) -> Callable[..., torch.Tensor]:
        def run(*args: Any, **kwargs: Any) -> torch.Tensor:
            states = forward(*args, **kwargs)
            return states if is_right else 0.9 * states + 0.1 * states.detach()

        return run

    monkeypatch.setattr("torch.compile", translated)
    if is_right:
        translate(body, views)
    else:
        with pytest.raises(TrainError, match="other gradients"):
            translate(body, views)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, before[name])
            assert parameter.grad is None


@pytest.mark.parametrize(
    ("settings", "facts", "key"),
    [
        ({"learning_rate": 3e-3}, {}, "train.learning_rate"),
        ({"learning_rate": 1e-5}, {}, "train.learning_rate"),
        ({"epochs": 10.0}, {}, "train.epochs"),
        ({"epochs": 1.0}, {"n_rows": 50}, "train.epochs"),
        ({"lora": {"r": 16}}, {"n_label_tokens": 2_000_000}, "train.lora.r"),
        ({"lora": {"r": 128, "alpha": 256}}, {"n_label_tokens": 10_000}, "train.lora.r"),
        ({"lora": {"alpha": 1}}, {}, "train.lora.alpha"),
        ({"lora": {"target_modules": ("q_proj",)}}, {}, "train.lora.target_modules"),
        ({"tokens_per_step": 65536}, {"n_steps": 10}, "train.tokens_per_step"),
    ],
)
def test_advice_names_the_setting(settings: dict[str, object], facts: dict[str, int], key: str) -> None:
    known = {"n_rows": 1000, "n_label_tokens": 50_000, "n_steps": 300, "n_base": 135_000_000, **facts}
    found = advise(TrainSettings.model_validate(settings), goes_on=False, **known)
    assert key in [advice.key for advice in found]
    assert all(advice.why and advice.present != advice.better for advice in found)


def test_pushing_down_wrong_answers_wants_a_small_rate_and_one_pass_of_few_rows() -> None:
    facts = {"n_rows": 100, "n_label_tokens": 20_000, "n_steps": 80, "n_base": 135_000_000}
    stage = {"objective": {"redi": {}}, "epochs": 1.0, "tokens_per_step": 256}

    def advised(**other: object) -> list[tuple[str, str]]:
        settings = TrainSettings.model_validate({**stage, **other})
        return [(advice.key, advice.better) for advice in advise(settings, goes_on=True, **facts)]

    assert advised(learning_rate=1e-4) == [("train.learning_rate", "1e-05")]
    assert advised(learning_rate=1e-5) == []
    mixed = advised(learning_rate=5e-4, objective={"redi": {}, "sft": {}})
    assert mixed == [("train.epochs", "3")], "right answers beside them hold the student"


def test_the_defaults_need_no_advice() -> None:
    facts = {"n_rows": 1000, "n_label_tokens": 50_000, "n_steps": 300, "n_base": 135_000_000}
    assert advise(TrainSettings(), goes_on=False, **facts) == ()


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@pytest.mark.parametrize(("r", "alpha"), [(16, 32), (16, 500), (64, 128), (64, 32), (64, 60), (128, 256)])
@pytest.mark.parametrize("n_labels", [10_000, 500_000, 2_000_000])
def test_an_adapter_as_advised_is_scaled_by_one_to_four(
    variant: str, r: int, alpha: int, n_labels: int
) -> None:
    facts = {"n_rows": 1000, "n_label_tokens": n_labels, "n_steps": 300, "n_base": 135_000_000}
    lora = {"r": r, "alpha": alpha, "variant": variant}
    found = advise(TrainSettings.model_validate({"lora": lora}), goes_on=False, **facts)
    lora |= {advice.key.removeprefix("train.lora."): advice.better for advice in found}
    r, alpha = int(lora["r"]), int(lora["alpha"])
    assert 1 <= alpha / (r**0.5 if lora["variant"] == "rslora" else r) <= 4
    assert (
        advise(TrainSettings(lora=LoraSettings(**{**lora, "r": r, "alpha": alpha})), goes_on=False, **facts)
        == ()
    )


def test_rank_stabilised_steps_are_advised_where_the_rank_makes_them_small() -> None:
    facts = {"n_rows": 1000, "n_label_tokens": 500_000, "n_steps": 300, "n_base": 135_000_000}
    known = {
        alpha: [
            (advice.key, advice.better)
            for advice in advise(TrainSettings(lora=LoraSettings(r=64, alpha=alpha)), goes_on=False, **facts)
        ]
        for alpha in (128, 32, 60)
    }
    rslora = ("train.lora.variant", "rslora")
    assert known == {128: [], 32: [rslora], 60: [rslora, ("train.lora.alpha", "16")]}


def test_a_large_vocabulary_takes_smaller_chunks_on_a_cpu() -> None:
    from agentkd.train.planner import chunk_for

    assert chunk_for(256, 49_152, "cpu") == 256
    assert chunk_for(256, 262_144, "cpu") == 64
    assert chunk_for(256, 262_144, "cuda") == 256
    assert chunk_for(8, 10**9, "cpu") == 8
