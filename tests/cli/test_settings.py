"""`config`, `plugins`, `models` and the global options: what they print, wherever they stand on the line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from agentkd.cli.config import toml_lines
from agentkd.config import Settings

from .conftest import Cli


def test_shown_settings_are_toml_that_reads_back_the_same(cli: Cli, tmp_path: Path) -> None:
    text = cli("-C", tmp_path, "--set", "memory.k=9", "config", "show", "--docs").out
    assert "# Memories rendered into a prompt." in text
    data = tomllib.loads(text)
    assert data["memory"]["k"] == 9
    again = Settings.model_validate(data)
    assert again == Settings.model_validate({"memory": {"k": 9}})


def test_one_table_or_one_value_can_be_shown(cli: Cli, tmp_path: Path) -> None:
    assert cli("-C", tmp_path, "config", "show", "train.lora").out.startswith("[train.lora]\nr = 16\n")
    assert cli("-C", tmp_path, "config", "show", "memory.k").out.strip() == "4"
    assert cli("-C", tmp_path, "config", "show", "memory", "--json").json["k"] == 4
    wrong = cli("-C", tmp_path, "config", "show", "memroy")
    assert wrong.code == 2
    assert wrong.err.strip() == "error: there is no table `memroy` (did you mean `memory`?)"


def test_the_default_settings_are_valid_toml() -> None:
    assert Settings.model_validate(tomllib.loads("\n".join(toml_lines(Settings(), [])))) == Settings()


def test_the_schema_carries_the_docstrings(cli: Cli, tmp_path: Path) -> None:
    schema = json.loads(cli("-C", tmp_path, "config", "schema").out)
    assert schema["$defs"]["MemorySettings"]["properties"]["k"]["description"].startswith("Memories")
    component = json.loads(cli("-C", tmp_path, "config", "schema", "suite/jsonl").out)
    assert "path" in component["properties"]
    assert "did you mean `jsonl`" in cli("-C", tmp_path, "config", "schema", "suite/json").err


def test_the_path_of_the_settings_is_told_before_they_exist(cli: Cli, tmp_path: Path) -> None:
    answer = cli("config", "path", "-C", tmp_path, "--json").json
    assert answer == {"path": str(tmp_path / "agentkd.toml"), "exists": False}


def test_options_work_before_and_after_the_command(cli: Cli, shop: Path) -> None:
    before = cli("-C", shop, "--json", "runs", "list")
    after = cli("runs", "list", "--json", "-C", shop)
    assert before.code == after.code == 0
    assert before.json == after.json


def test_the_environment_names_a_workspace(cli: Cli, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKD_WORKSPACE", str(shop))
    assert cli("runs", "list", "--json").json[0]["suite"] == "jsonl"


def test_plugins_are_listed_with_their_components_and_hooks(cli: Cli, tmp_path: Path) -> None:
    value = cli("-C", tmp_path, "plugins", "list", "--kind", "suite", "--json").json
    assert "components" in value["plugins"][0]["hooks"]
    assert {c["kind"] for c in value["components"]} == {"suite"}
    assert "jsonl" in [c["name"] for c in value["components"]]
    assert "chroma" in cli("-C", tmp_path, "plugins", "list").out


def test_a_folder_is_pulled_as_it_is(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKD_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    assert cli("models", "pull", f"path:{model}", "--json").json == {f"path:{model}": str(model)}
    listed = cli("models", "list", "--json").json
    assert {item["path"] for item in listed} == {""}
    unknown = cli("models", "pull", "ftp:thing")
    assert unknown.code == 7
    assert "ftp:thing" in unknown.err
    assert cli("models", "pull", "path:a", "path:b", "--sha256", "00").code == 2
