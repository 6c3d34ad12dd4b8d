"""Several processes train what one process trains; rank 0 alone writes."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import AnchorSettings, Example, LoraSettings, TrainJob, TrainSettings
from agentkd.train import LoraTrainer, LoraTrainerSettings
from agentkd.train.anchor import Anchors
from agentkd.train.batch import Weighted
from agentkd.train.body import Body
from agentkd.train.distributed import World
from agentkd.train.feed import Feed
from agentkd.train.loop import train
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.objectives import Sft
from agentkd.train.packing import deal, make_packs, plan_steps
from agentkd.train.prepare import build_objectives, check_processes
from agentkd.train.reporter import Reporter
from agentkd.train.rows import Row, View
from agentkd.train.step import Stepper

MakeJob = Callable[..., TrainJob]


def weights(job: TrainJob) -> dict[str, torch.Tensor]:
    return load_file(str(Path(job.output) / "adapter_model.safetensors"))


def terms(job: TrainJob) -> list[dict[str, float]]:
    """The terms of every step, with its tokens and trained tokens."""
    lines = map(json.loads, (Path(job.output) / "metrics.jsonl").read_text().splitlines())
    counts = ("tokens", "label_tokens")
    return [line["terms"] | {name: line[name] for name in counts} for line in lines if "terms" in line]


def alone(job: TrainJob) -> None:
    train(job, Reporter(is_machine=True, out=io.StringIO()))


def torchrun(job: TrainJob, tmp_path: Path) -> str:
    spec = tmp_path / "spec.json"
    spec.write_text(job.model_dump_json())
    return two_processes("-m", "agentkd.train", str(spec)).stderr


def two_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


SPLIT = """
import sys
import torch
from torch.distributed.tensor import DTensor
from agentkd import hf
from agentkd.schema import LoraSettings
from agentkd.train.body import Body
from agentkd.train.distributed import open_world, shard
from agentkd.train.lora import add_adapter
from agentkd.train.model import decoder_layers
from agentkd.train.packing import make_packs
from agentkd.train.rows import View

with open_world("cpu") as world:
    model = hf.load_model(sys.argv[1], "float32", "cpu")
    body = Body(add_adapter(model, LoraSettings(r=4), init_adapter="", seed=0))
    view = View((1, 5, 6, 7, 2), (3, 4), (1.0, 1.0))
    body.pack_for_training([view])
    shard(body.model)
    pack = next(iter(make_packs([view], 100)))

    def n_whole():
        held = [parameter for layer in decoder_layers(body.model) for parameter in layer.parameters()]
        return sum(not isinstance(parameter, DTensor) for parameter in held if not parameter.requires_grad)

    with torch.no_grad():
        body.hidden(pack)
    found = [n_whole()]
    with torch.inference_mode():
        body.hidden(pack)
    found.append(n_whole())
    states = body.hidden(pack)
    found.append(n_whole())
    states.sum().backward()
    found.append(n_whole())
    if world.is_main:
        print("whole", found)
"""


def test_no_layer_keeps_its_weights_whole_after_a_pass(base: Path, tmp_path: Path) -> None:
    script = tmp_path / "split.py"
    script.write_text(SPLIT)
    assert two_processes(str(script), str(base)).stdout.strip() == "whole [0, 0, 0, 0]"


@pytest.mark.parametrize("settings", [{}, {"sharding": "fsdp"}], ids=["replicated", "fsdp"])
def test_two_processes_train_what_one_trains(
    make_job: MakeJob,
    write_dataset: Callable[..., Path],
    make_example: Callable[..., Example],
    tmp_path: Path,
    settings: dict[str, str],
) -> None:
    rows = [make_example(n, teacher=n % 4 != 0) for n in range(24)]
    dataset = write_dataset(rows, [make_example(30)], name="taught")
    objective = {"sft": {}, "self-context": {"top_k": 8}}
    fields = {"dataset": dataset, "objective": objective, "epochs": 1.0}
    one = make_job("one", **fields, signals=str(tmp_path / "s1"))
    two = make_job("two", **fields, signals=str(tmp_path / "s2"), save_every_seconds=0.0, **settings)
    alone(one)
    if settings:
        assert torchrun(two, tmp_path).count("optimiser steps") == 1  # the other process is silent
    else:
        checkpoint = LoraTrainer(LoraTrainerSettings(processes=2, threads=1)).train(two)
        assert checkpoint.metrics["predicted_memory_mib"] > 0
    assert terms(two) == [pytest.approx(line, rel=1e-3, abs=1e-5) for line in terms(one)]
    for name, wanted in weights(one).items():
        torch.testing.assert_close(weights(two)[name], wanted, atol=2e-5, rtol=1e-3)
    assert not Path(f"{two.output}.partial").exists()


@pytest.mark.parametrize(
    ("n", "length", "least"), [(2, 60, 0.95), (4, 60, 0.9), (4, 250, 0.88), (2, 600, 0.92)]
)
def test_processes_get_about_as_much_to_compute(n: int, length: int, least: float) -> None:
    """Against the tokens that one process would compute: packs in turn came to 0.68 to 0.82 of the ideal."""
    draw = random.Random(1)
    heads = [tuple(range(40)), tuple(range(100, 140))]
    views = []
    for _ in range(400):
        own = [draw.randrange(200, 5000) for _ in range(round(length * draw.lognormvariate(0, 0.6)) + 4)]
        views.append(View((*draw.choice(heads), *own), (40,), (1.0,)))
    whole = most = in_turn = 0
    for step in plan_steps([view.n_tokens for view in views], epochs=1.0, tokens_per_step=4096, seed=0):
        rows = [views[number] for number in step]
        whole += n_computed(rows, 1 << 30)
        dealt = deal([[row] for row in rows], n)
        assert sorted(number for numbers in dealt for number in numbers) == list(range(len(rows)))
        most += max(n_computed([rows[number] for number in numbers], 3072) for numbers in dealt)
        packs = [len(pack.tokens) for pack in make_packs(rows, -(-4096 // n))]
        in_turn += max(sum(packs[rank::n]) for rank in range(n))
    assert whole / n / in_turn < least - 0.05
    assert whole / n / most > least


def n_computed(views: Sequence[View], max_tokens: int) -> int:
    return sum(len(pack.tokens) for pack in make_packs(views, max_tokens))


@pytest.mark.parametrize("size", [2, 8])
def test_the_gradients_of_all_processes_sum_to_that_of_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """With anchors, which are dealt out as rows are; of eight processes some have nothing to do."""
    draw = random.Random(2)
    ids = [[1, 5, *(draw.randrange(20, 200) for _ in range(5 + 3 * n))] for n in range(8)]
    views = [View(tuple(row), tuple(range(3, len(row))), (1.0,) * (len(row) - 3)) for row in ids]
    rows = [Row(f"r{n}", view, None) for n, view in enumerate(views[:4])]
    body = Body(
        add_adapter(hf.load_model(base, "float32", "cpu"), LoraSettings(r=4), init_adapter="", seed=0)
    )
    body.pack_for_training(views)
    parameters = [parameter for _, parameter in adapter_parameters(body.model)]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    objectives = [Weighted(Sft(), 1.0, "test")]
    anchor = AnchorSettings(weight=0.7, share=1.0)
    settings = TrainSettings(anchor=anchor, max_grad_norm=1e9, learning_rate=1e-12)

    def pack(views: Sequence[View], **together: Any) -> Any:
        return make_packs(views, 50, **together)

    anchors = Anchors(anchor, views[4:], pack, tokens_per_step=60, chunk_tokens=8, seed=0)
    anchors.prepare(body, 1)
    n_labels = {"sft": float(sum(len(row.student.labels) for row in rows))}
    monkeypatch.setattr(World, "sum_terms", lambda self, terms: n_labels if set(terms) == {"sft"} else terms)
    monkeypatch.setattr(World, "sum_gradients", lambda self, parameters: None)

    def ran(world: World) -> tuple[dict[str, float], torch.Tensor, int]:
        stepper = Stepper(
            settings, rows, [range(4)], body, objectives, Feed(objectives, pack, body.device), 8,
            torch.optim.SGD(parameters), world, tmp_path, anchors,
        )  # fmt: skip
        result = stepper.run(0)
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        return dict(result.terms), torch.cat([each.flatten() for each in found]), result.n_computed

    wanted, gradient, n_whole = ran(World())
    parts = [ran(World(rank, size)) for rank in range(size)]
    for name, value in wanted.items():
        assert sum(terms.get(name, 0.0) for terms, _, _ in parts) == pytest.approx(value, rel=1e-5)
        assert max(terms.get(name, 0.0) for terms, _, _ in parts) < value, "no process does all of it"
    total = torch.stack([part for _, part, _ in parts]).sum(0)
    torch.testing.assert_close(total, gradient, atol=1e-6, rtol=1e-4)
    assert sum(n for _, _, n in parts) >= n_whole


def test_what_shares_its_beginning_goes_to_one_process() -> None:
    def view(head: int, own: int) -> View:
        return View((*range(head, head + 200), own, own), (201,), (1.0,))

    items = [[view(1000 * (number % 2), number)] for number in range(8)]
    assert deal(items, 2) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert deal(items[:1], 3) == [[0], [], []]
    assert deal(items, 1) == [list(range(8))]
    pair = [view(0, 1), view(5000, 2)]
    assert sorted(map(len, deal([pair, items[0], items[1]], 2))) == [1, 2]


def test_what_is_drawn_in_a_step_follows_from_seed_step_and_process() -> None:
    def drawn(rank: int, seed: int, step: int, before: int = 0) -> list[float]:
        torch.manual_seed(before)  # what a process drew until then, or the state that a save gave it
        World(rank, 2).reseed(seed, step)
        return torch.rand(4).tolist()

    assert drawn(1, 7, 3) == drawn(1, 7, 3, before=99)
    assert len({tuple(drawn(*at)) for at in ((0, 7, 3), (1, 7, 3), (1, 7, 4), (1, 8, 3))}) == 4
    torch.manual_seed(5)
    wanted = torch.rand(4).tolist()
    torch.manual_seed(5)
    World().reseed(7, 3)
    assert torch.rand(4).tolist() == wanted, "one process goes on with its own state"


def test_weights_cannot_be_split_over_one_process(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="needs several processes"):
        alone(make_job(sharding="fsdp"))


@pytest.mark.parametrize("name", ["taid", "hidden-mse", "selective"])
def test_a_state_that_follows_from_all_chunks_is_refused_where_processes_share_them(
    make_job: MakeJob, name: str
) -> None:
    options = {"objective": "taid"} if name == "selective" else {}
    objectives = build_objectives(make_job(objective={name: options}))
    check_processes(objectives, 1)
    with pytest.raises(ConfigError, match=f"`{name}` learns from all chunks") as caught:
        check_processes(objectives, 2)
    assert "processes = 1" in caught.value.hint
