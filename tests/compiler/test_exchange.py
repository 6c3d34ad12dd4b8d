"""A dataset's folder as other trainers read it."""

from __future__ import annotations

import importlib.util
import json

import pytest

from agentkd.compiler import export_lines, read_examples


@pytest.fixture
def folder(make):
    good = make.run("a", calls=(make.call("find"), make.call("book", city="Oslo")))
    bad = make.run("a", id="bad", attempt=1, success=False, calls=(make.call("find"), make.call("book")))
    alone = make.run("z", success=False, calls=(make.call("find", q="x"),))
    card = make.compile(make.inputs([good, bad, alone]), need_rejected=True)
    return make.out_root / card.id


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_messages_beside_a_dataset_render_to_the_tokens_that_are_trained(make, folder):
    rows = {row.id: row for row in read_examples(folder / "train.jsonl")}
    shared = lines(folder / "sft-train.jsonl")
    assert [row["kind"] for row in shared] == ["trajectory", "trajectory"]  # no lone negative
    for row in shared:
        text = make.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        whole = make.tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        ours = rows[row["id"]].student.ids
        assert whole.startswith(text)
        assert tuple(make.tokenizer.encode(whole, add_special_tokens=False))[: len(ours)] == ours


def test_pairs_lie_in_a_file_of_their_own_and_empty_files_are_not_written(folder):
    (pair,) = lines(folder / "dpo-train.jsonl")
    assert pair["prompt"][-1]["role"] == "user"
    assert "Oslo" in pair["chosen"][0]["content"]
    assert pair["rejected"] == [{"role": "assistant", "content": '{"name": "book", "arguments": {}}'}]
    assert not (folder / "sft-dev.jsonl").exists()
    assert not (folder / "dpo-dev.jsonl").exists()


def test_the_hub_card_names_the_files_and_where_the_rows_come_from(folder):
    import yaml

    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "unknown"
    assert facts["configs"] == [
        {
            "config_name": "sft",
            "default": True,
            "data_files": [{"split": "train", "path": "sft-train.jsonl"}],
        },
        {"config_name": "dpo", "data_files": [{"split": "train", "path": "dpo-train.jsonl"}]},
    ]
    for said in (
        "3 to train on",
        "1 negative, 2 trajectory",
        "`base-x`",
        "2 tasks, 3 trajectories",
        "unknown:",
    ):
        assert said in body


def test_a_fine_tuning_file_has_tool_calls_and_their_answers(folder):
    _, second = (json.loads(line) for line in export_lines(read_examples(folder / "train.jsonl"), "openai"))
    call, result, last = second["messages"][2:]
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {}
    assert result == {"role": "tool", "content": "result 0", "tool_call_id": call["tool_calls"][0]["id"]}
    assert last["tool_calls"][0]["function"]["name"] == "book"
    assert last["content"] == ""


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
def test_datasets_loads_the_folder(folder, tmp_path):
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == 2
    pairs = datasets.load_dataset(str(folder), "dpo", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(pairs["train"].column_names)
