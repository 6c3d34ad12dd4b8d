"""The modules that get an adapter: those that the settings name, of the base's own kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import LoraSettings, TrainJob
from agentkd.train.lora import adapter_parameters, add_adapter, write_adapter
from agentkd.train.plan import plan
from agentkd.train.reporter import Reporter
from agentkd.train.shape import shape_of

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads images and text, with `q_proj` in both parts."""
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("sees")
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "lm_head")])
def test_a_model_that_sees_too_is_adapted_where_it_reads_text(
    make_job: MakeJob, sees: Path, tmp_path: Path, targets: Any
) -> None:
    lora = LoraSettings(r=2, target_modules=targets)
    model = add_adapter(hf.load_model(sees, "float32", "cpu"), lora, init_adapter="", seed=0)
    trained = dict(adapter_parameters(model))
    assert not [name for name in trained if "vision" in name]
    assert any("lm_head" in name for name in trained) == (targets != "all-linear")
    n_modules = 2 * 7 if targets == "all-linear" else 2 + 1
    assert len(trained) == 2 * n_modules
    job = make_job(lora=lora).model_copy(update={"base": str(sees)})
    assert shape_of(job)[1].n_adapter == sum(p.numel() for p in trained.values())
    write_adapter(model, tmp_path, str(sees))
    again = hf.attach_adapter(hf.load_model(sees, "float32", "cpu"), tmp_path)
    for name, tensor in trained.items():
        assert torch.equal(again.get_parameter(name), tensor)


def test_an_adapter_on_an_embedding_is_refused_before_it_is_trained(make_job: MakeJob) -> None:
    job = make_job(lora=LoraSettings(target_modules=("embed_tokens", "q_proj")))
    with pytest.raises(
        ConfigError, match=r"`model.embed_tokens` of the base is of the kind `Embedding`"
    ) as refused:
        shape_of(job)
    assert refused.value.context["key"] == "train.lora.target_modules"


def test_layers_that_are_named_one_by_one_are_planned(make_job: MakeJob) -> None:
    job = make_job(lora=LoraSettings(r=2, target_modules=("layers.1.mlp.down_proj",)))
    found = plan(job, Reporter(is_machine=False))
    assert (found.n_parameters, found.n_steps > 0) == (2 * (64 + 128), True)
