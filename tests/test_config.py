"""Settings: which source wins, and what a wrong one is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.config import Settings, load_settings
from agentkd.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    (folder / "agentkd.toml").write_text(text, encoding="utf-8")
    return folder


def test_defaults_hold_where_nothing_is_set() -> None:
    assert load_settings(environ={}) == Settings()


def test_each_source_overrides_the_one_before(tmp_path: Path) -> None:
    root = write(tmp_path, "[memory]\nk = 1\nmin_score = 0.1\n[run]\nworkers = 1\nattempts = 5\n")
    settings = load_settings(
        root,
        environ={"AGENTKD__MEMORY__K": "2", "AGENTKD__RUN__WORKERS": "2", "PATH": "/bin"},
        assignments=["memory.k=3"],
        overrides={"run": {"workers": 4}},
    )
    assert (settings.memory.k, settings.run.workers) == (3, 4)
    assert (settings.memory.min_score, settings.run.attempts) == (0.1, 5)


def test_a_folder_without_a_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path, environ={}) == Settings()


def test_values_of_assignments_are_json_or_plain_text() -> None:
    settings = load_settings(
        environ={},
        assignments=["cycle.suite=bfcl-live", "cycle.n=64", "train.lora.r=8", 'distill.distillers=["case"]'],
    )
    assert (settings.cycle.suite, settings.cycle.n, settings.train.lora.r) == ("bfcl-live", 64, 8)
    assert settings.distill.distillers == ("case",)


def test_options_of_a_component_are_kept_by_kind_and_name() -> None:
    settings = load_settings(environ={}, assignments=["suite.jsonl.path=tasks.jsonl"])
    assert settings.options("suite", "jsonl") == {"path": "tasks.jsonl"}
    assert settings.options("suite", "other") == {}
    assert settings.options("aligner", "any") == {}


def test_a_wrong_value_is_blamed_on_who_gave_it(tmp_path: Path) -> None:
    root = write(tmp_path, "[memory]\nk = 1\n[train]\nepochs = 1\n[train.lora]\nr = 8\n")
    file = str(root / "agentkd.toml")

    def blamed(*assignments: str, keywords: dict[str, Any] | None = None, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_settings(root, environ=environ, assignments=assignments, overrides=keywords)
        return str(caught.value.context["path"])

    assert blamed("memory.k=abc") == "`--set memory.k`"
    assert blamed("train.lora=8") == "`--set train.lora`"
    assert blamed("train.lora.q=8") == "`--set train.lora.q`"
    assert blamed(AGENTKD__MEMORY__K="abc") == "`AGENTKD__MEMORY__K`"
    assert blamed("memory.k=abc", AGENTKD__MEMORY__K="2") == "`--set memory.k`"
    assert blamed("memory.k=2", keywords={"memory": {"k": "abc"}}) == "keywords"
    write(tmp_path, "[memory]\nk = 'abc'\n")
    assert blamed("train.epochs=2") == file
    assert blamed(keywords={"memory": {}}) == file
    for text, source in (("[memory]\nk = 1\n", "what a plugin suggests"), ("[train]\nepochs = 'x'\n", file)):
        write(tmp_path, text)
        with pytest.raises(ConfigError) as caught:
            load_settings(root, environ={}, suggested={"train": {"epochs": "y"}})
        assert caught.value.context["path"] == source


def test_an_unknown_key_is_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    root = write(tmp_path, "[train]\nlerning_rate = 1e-4\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(root, environ={})
    assert "`train.lerning_rate`" in caught.value.message
    assert str(root / "agentkd.toml") in caught.value.message
    assert caught.value.hint == "did you mean `learning_rate`?"


def test_an_unknown_table_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean `memory`"):
        load_settings(environ={}, assignments=["memry.k=1"])


def test_a_key_like_no_other_is_answered_with_all_that_are_known() -> None:
    with pytest.raises(ConfigError, match="known here: also, arms"):
        load_settings(environ={}, overrides={"evaluate": {"zzz": 1}})


def test_a_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`memory\.k`"):
        load_settings(environ={}, assignments=["memory.k=many"])


def test_a_table_where_a_value_belongs_is_refused() -> None:
    with pytest.raises(ConfigError, match="`k` is a value"):
        load_settings(environ={}, assignments=["memory.k=1", "memory.k.deep=2"])


@pytest.mark.parametrize("text", ["[train\n", "a = = 1", "\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_settings(write(tmp_path, text), environ={})


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no `=`"):
        load_settings(environ={}, assignments=["train.epochs"])


@given(k=st.integers(1, 99), share=st.floats(0, 1), name=st.text("abc-", min_size=1))
def test_any_settings_survive_the_way_through_json(k: int, share: float, name: str) -> None:
    settings = Settings.model_validate(
        {"memory": {"k": k}, "compile": {"dev_share": share}, "cycle": {"suite": name}}
    )
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
