"""Several processes train what one process trains; rank 0 alone writes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agentkd.errors import ConfigError
from agentkd.schema import Example, TrainJob
from agentkd.train import LoraTrainer, LoraTrainerSettings
from agentkd.train.distributed import World
from agentkd.train.loop import train
from agentkd.train.prepare import build_objectives, check_processes
from agentkd.train.reporter import Reporter

MakeJob = Callable[..., TrainJob]


def weights(job: TrainJob) -> dict[str, torch.Tensor]:
    return load_file(str(Path(job.output) / "adapter_model.safetensors"))


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
    one = make_job("one", dataset=dataset, objective=objective, epochs=1.0, signals=str(tmp_path / "s1"))
    two = make_job(
        "two", dataset=dataset, objective=objective, epochs=1.0, signals=str(tmp_path / "s2"),
        save_every_seconds=0.0, **settings,
    )  # fmt: skip
    alone(one)
    if settings:
        assert torchrun(two, tmp_path).count("optimiser steps") == 1  # the other process is silent
    else:
        checkpoint = LoraTrainer(LoraTrainerSettings(processes=2, threads=1)).train(two)
        assert checkpoint.metrics["predicted_memory_mib"] > 0
    for name, wanted in weights(one).items():
        torch.testing.assert_close(weights(two)[name], wanted, atol=2e-5, rtol=1e-3)
    assert not Path(f"{two.output}.partial").exists()


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
