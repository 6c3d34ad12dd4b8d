"""A student leaves the workspace only in files that were read back and answered like it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import CheckpointError, ConfigError, ModelError
from agentkd.files import own_name
from agentkd.hf.gguf_tokens import add_tokenizer
from agentkd.hf.llama_cpp import has_llama_cpp
from agentkd.schema import Rendered

gguf = pytest.importorskip("gguf")

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]


def make_adapter(base: Path, folder: Path, **options: Any) -> Path:
    """Save a random adapter as peft saves one."""
    import torch
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "lora_alpha": 8, "target_modules": MODULES, **options}
    model = get_peft_model(hf.load_model(base, "float32", "cpu"), LoraConfig(**options))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "magnitude" in name:
            parameter.data *= torch.rand_like(parameter) + 0.5
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(hf.tiny_model(tmp_path_factory.mktemp("student") / "base"))


@pytest.fixture(scope="module")
def student(base: Path) -> tuple[Path, Path]:
    """A tiny random base and an adapter on most of its projections."""
    return base, make_adapter(base, base.parent / "adapter")


def rows(n: int = 8) -> list[Rendered]:
    return [
        Rendered(ids=tuple(5 + (i * 7 + t * 11) % 200 for t in range(20)), weights=(0.0,) * 8 + (1.0,) * 12)
        for i in range(n)
    ]


@pytest.mark.parametrize("shape", hf.EXPORTS)
def test_an_export_answers_like_the_student(student: tuple[Path, Path], tmp_path: Path, shape: str) -> None:
    dtype = "float32" if shape == "gguf" else ""
    export = hf.export_student(shape, *student, tmp_path / "out", rows(), dtype=dtype)
    for parity in export.parity:
        assert parity.agreement == 1.0
        assert parity.largest < 1e-3
    assert export.parity[0].n_tokens == 8 * 20  # every position, not the completion's alone
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"out", "out.export.json"} if shape.startswith("gguf") else {"out"})  # nothing aside


def test_an_export_whose_logits_are_all_larger_is_refused(
    student: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says the same tokens, with other probabilities: agreement alone would let it through."""
    real = hf.export.load_model

    def scaled(folder: str | Path, dtype: str, device: str) -> Any:
        model = real(folder, dtype, device)
        if Path(folder).name == "out":
            model.lm_head = torch.nn.Sequential(model.lm_head, Doubled())
        return model

    class Doubled(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return 2 * logits

    monkeypatch.setattr(hf.export, "load_model", scaled)
    with pytest.raises(CheckpointError, match=r"agrees on 1\.0000 .* allowed 0\.25"):
        hf.export_student("merged", *student, tmp_path / "out", rows())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", ["merged", "gguf"])
def test_the_record_beside_an_export_says_what_it_is(
    student: tuple[Path, Path], tmp_path: Path, shape: str
) -> None:
    out = tmp_path / "out"
    export = hf.export_student(shape, *student, out, rows(), dtype="float32")
    file = tmp_path / "out.export.json" if shape == "gguf" else out / "export.json"
    assert hf.Export.model_validate_json(file.read_bytes()) == export
    for name, digest in export.files.items():
        assert hf.file_sha256(out if shape == "gguf" else out / name) == digest
    assert {"shape", "dtype", "parity", "files"} <= set(json.loads(file.read_text()))
    was_read = any(parity.reader == "llama.cpp" for parity in export.parity)
    assert was_read == (shape == "gguf" and has_llama_cpp())
    assert bool(export.notes) == (shape == "gguf" and not was_read)  # what was not checked is said


def test_a_merged_model_is_loaded_as_any_other(student: tuple[Path, Path], tmp_path: Path) -> None:
    hf.export_student("merged", *student, tmp_path / "out", rows())
    assert hf.load_tokenizer(tmp_path / "out").eos_token == hf.load_tokenizer(student[0]).eos_token
    assert not list((tmp_path / "out").glob("adapter*"))


def test_the_names_in_a_gguf_adapter_are_those_of_llama_cpp(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    hf.export_student("gguf-adapter", *student, tmp_path / "out.gguf", rows())
    reader = gguf.GGUFReader(str(tmp_path / "out.gguf"))
    names = {tensor.name for tensor in reader.tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.0.attn_k.weight.lora_b", "blk.0.ffn_up.weight.lora_a"} <= names
    assert reader.get_field("general.type").contents() == "adapter"
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("adapter.lora.alpha").contents() == 8.0


def test_a_rank_stabilised_scale_is_written_into_the_alpha(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_rslora=True)
    export = hf.export_student("gguf-adapter", base, adapter, tmp_path / "out.gguf", rows())
    assert export.parity[0].agreement == 1.0
    reader = gguf.GGUFReader(str(tmp_path / "out.gguf"))
    assert reader.get_field("adapter.lora.alpha").contents() == pytest.approx(8 / 4**0.5 * 4)


def test_a_dora_adapter_is_merged_and_never_a_gguf_adapter(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=True)
    with pytest.raises(CheckpointError, match="DoRA") as refused:
        hf.export_student("gguf-adapter", base, adapter, tmp_path / "out", rows())
    assert "`gguf` or `merged`" in refused.value.hint
    for shape in ("peft", "merged"):
        export = hf.export_student(shape, base, adapter, tmp_path / shape, rows())
        assert export.parity[0].agreement == 1.0
        assert export.parity[0].largest < 1e-3


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_a_student_of_any_kind_is_served_as_it_was_trained(
    base: Path, tmp_path: Path, options: Mapping[str, Any]
) -> None:
    """The batched network of the model `local` computes what peft computes."""
    import torch

    from agentkd.models.network import Piece, open_network

    adapter = make_adapter(base, tmp_path / "adapter", **options)
    ids = list(rows(1)[0].ids)
    network = open_network(base, "float32", "cpu")
    network.use_adapter("student", adapter)
    row = network.open(None, len(ids))
    found = network.extend([Piece(row, ids, len(ids))])
    with torch.inference_mode():
        model: Any = hf.attach_adapter(hf.load_model(base, "float32", "cpu"), adapter)
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    assert (found - wanted).abs().max() < 1e-3


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.5}, {"target_modules": ["down_proj"]}, {"target_modules": ["lm_head"]}]
)
def test_dropout_few_modules_and_a_tied_output_layer_are_merged_right(
    base: Path, tmp_path: Path, options: Mapping[str, Any]
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **options)
    for shape in ("merged", "gguf"):
        export = hf.export_student(shape, base, adapter, tmp_path / shape, rows(), dtype="float32")
        assert export.parity[0].agreement == 1.0


def test_an_adapter_on_changed_base_weights_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", init_lora_weights="pissa")
    with pytest.raises(CheckpointError, match="changed weights of the base"):
        hf.export_student("merged", base, adapter, tmp_path / "out", rows())


def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="answers otherwise than the student"):
        hf.export_student("merged", *student, tmp_path / "out", rows(64), dtype="bfloat16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_merged_export_of_fewer_bits_is_judged_by_its_weights(tmp_path: Path, dtype: str) -> None:
    """Weights that the type holds exactly answer exactly: the arithmetic that reads them is float32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    kind = getattr(torch, dtype)
    base, adapter = Path(hf.tiny_model(tmp_path / "base")), tmp_path / "adapter"
    model = hf.load_model(base, "float32", "cpu")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(kind).float()
    model.save_pretrained(str(base), safe_serialization=True)
    get_peft_model(model, LoraConfig(r=2, target_modules=MODULES)).save_pretrained(str(adapter))
    export = hf.export_student("merged", base, adapter, tmp_path / "out", rows(), dtype=dtype)
    (parity,) = export.parity
    assert (parity.agreement, parity.largest) == (1.0, 0.0)
    assert {tensor.dtype for tensor in load_file(str(tmp_path / "out" / "model.safetensors")).values()} == {
        kind
    }
    assert hf.load_model(tmp_path / "out", dtype, "cpu").dtype == kind


def test_a_merged_export_in_float16_answers_like_the_student(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    (parity,) = hf.export_student("merged", *student, tmp_path / "out", rows(32), dtype="float16").parity
    assert 0.995 == parity.bar <= parity.agreement


def test_a_type_that_no_model_is_loaded_as_is_refused(base: Path) -> None:
    with pytest.raises(ModelError, match="float8"):
        hf.load_model(base, "float8", "cpu")


def test_what_is_there_is_never_overwritten(student: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        hf.export_student("merged", *student, tmp_path, rows())


def test_what_a_killed_export_left_is_removed_or_replaced(student: tuple[Path, Path], tmp_path: Path) -> None:
    left = tmp_path / own_name().replace(f"-{os.getpid()}-", "-999999999-")  # nobody's
    left.mkdir()
    record = tmp_path / "out.gguf.export.json"  # the first of the two that are moved into place
    record.write_text("{}")
    export = hf.export_student("gguf-adapter", *student, tmp_path / "out.gguf", rows())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "out.gguf.export.json"]
    assert hf.Export.model_validate_json(record.read_bytes()) == export


def test_a_type_that_a_shape_does_not_have_is_refused(student: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="q8_0"):
        hf.export_student("merged", *student, tmp_path / "out", rows(), dtype="q8_0")


def test_a_damaged_adapter_is_refused(student: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in student[1].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"cannot be read|adapter_model"):
        hf.export_student("peft", student[0], broken, tmp_path / "out", rows())


def _fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(str(file)).fields.items()}


def test_a_whole_gguf_carries_the_tokenizer_and_the_chat_template(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    hf.export_student("gguf", *student, tmp_path / "out.gguf", rows(), dtype="float32")
    fields, tokenizer = _fields(tmp_path / "out.gguf"), hf.load_tokenizer(student[0])
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert fields["llama.attention.head_count_kv"] == 2


def test_a_token_without_a_row_in_the_embedding_is_left_out(base: Path, tmp_path: Path) -> None:
    """Gemma 3's tokenizer has `<image_soft_token>` after the last row of its text models."""
    tokenizer = hf.load_tokenizer(base)
    n_rows = len(tokenizer)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    writer = gguf.GGUFWriter(str(tmp_path / "out.gguf"), "llama")
    add_tokenizer(writer, tokenizer, n_rows)
    tokens = writer.kv_data[0]["tokenizer.ggml.tokens"].value
    assert tokens == tokenizer.convert_ids_to_tokens(range(n_rows))


def test_metadata_is_taken_over_from_the_file_that_the_base_came_from(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    hf.export_student("gguf", *student, first, rows(), dtype="float32")
    hf.export_student("gguf", *student, second, rows(), dtype="float32", base_gguf=first)
    one, two = _fields(first), _fields(second)
    assert {k: v for k, v in one.items() if not k.startswith("GGUF.")} == {
        k: v for k, v in two.items() if not k.startswith("GGUF.")
    }


def test_eight_bits_are_held_to_a_bar_of_their_own(student: tuple[Path, Path], tmp_path: Path) -> None:
    """Weights drawn at random have next to no margin between two tokens: eight bits are too few for them."""
    with pytest.raises(CheckpointError, match=r"needed 0\.98"):
        hf.export_student("gguf", *student, tmp_path / "out.gguf", rows(32), dtype="q8_0")
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_an_architecture_in_another_layout_is_refused(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    """llama.cpp permutes rows of SmolLM3's queries and keys; what we wrote would read back all the same."""
    base = tmp_path / "base"
    shutil.copytree(student[0], base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "smollm3"}))
    with pytest.raises(CheckpointError, match="agentkd writes no GGUF of architecture `smollm3`"):
        hf.export_student("gguf-adapter", base, student[1], tmp_path / "out.gguf", rows())
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "scaled rotary"),
        ({"model_type": "mistral"}, "architecture `mistral`"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    student: tuple[Path, Path], tmp_path: Path, change: Mapping[str, Any], match: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(student[0], base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=match) as refused:
        hf.export_student("gguf", base, student[1], tmp_path / "out", rows())
    assert "merged" in refused.value.hint


def test_an_adapter_whose_base_cannot_be_written_is_exported_with_a_note(
    student: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf.export, "has_llama_cpp", lambda: True)
    base = tmp_path / "base"
    shutil.copytree(student[0], base)
    config = json.loads((base / "config.json").read_text())
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    (base / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    export = hf.export_student("gguf-adapter", base, student[1], tmp_path / "out.gguf", rows())
    assert [parity.reader for parity in export.parity] == ["transformers"]
    assert [note.startswith("not read by llama.cpp: agentkd writes no GGUF") for note in export.notes] == [
        True
    ]


def other_models() -> Sequence[Any]:
    from transformers import Gemma3TextConfig, Qwen2Config

    small: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "initializer_range": 0.15, "max_position_embeddings": 512,
    }  # fmt: skip
    return [
        Qwen2Config(**small, num_hidden_layers=2, tie_word_embeddings=False),
        Gemma3TextConfig(
            **small, num_hidden_layers=7, head_dim=32, query_pre_attn_scalar=32, sliding_window=16
        ),
    ]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("shape", ["gguf", "gguf-adapter", "merged"])
def test_other_architectures_come_back_as_they_were(
    base: Path, tmp_path: Path, number: int, shape: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = other_models()[number]
    tokenizer = hf.load_tokenizer(base)
    config.vocab_size = len(tokenizer) + 8  # rows of the embedding that no token has
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(str(tmp_path / "base"))
    tokenizer.save_pretrained(str(tmp_path / "base"))
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter")
    export = hf.export_student(shape, tmp_path / "base", adapter, tmp_path / "out", rows(), dtype="float32")
    assert all(parity.agreement == 1.0 for parity in export.parity)
    assert all(parity.largest < 1e-2 for parity in export.parity)
