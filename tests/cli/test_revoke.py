"""`agentkd memory revoke`: memories, runs or all of a scope, and what the command says of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Cli


@pytest.fixture
def root(shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop, tmp_path / "shop"))


def test_a_memory_is_revoked_and_its_dataset_tainted(cli: Cli, root: Path) -> None:
    first = cli("-C", root, "memory", "list", "--json").json[0]["id"]
    done = cli("-C", root, "memory", "revoke", first, "it is wrong")
    assert done.code == 0
    assert first in done.out
    assert "1 rows in 1 datasets" in done.out
    assert "`base` serves on" in " ".join(done.out.split())
    again = cli("-C", root, "memory", "revoke", first, "it is wrong", "--json").json
    assert again["memories"] == []
    assert "revoked since" in cli("-C", root, "-q", "train").err


def test_all_of_a_scope_is_revoked(cli: Cli, root: Path) -> None:
    assert cli("-C", root, "memory", "revoke", "a reason alone").code == 2
    done = cli("-C", root, "memory", "revoke", "--app", "jsonl", "asked for", "--json").json
    assert len(done["trajectories"]) == 12
    assert {m["status"] for m in cli("-C", root, "memory", "list", "--json").json} == {"revoked"}
    again = cli("-C", root, "memory", "revoke", "--app", "jsonl", "asked for")
    assert (again.code, "was revoked before" in again.out) == (0, True)
    refused = cli("-C", root, "memory", "revoke", "--app", "jsnol", "asked for")
    assert (refused.code, refused.out) == (6, "")
    assert "no memory and no trajectory is of app `jsnol`" in refused.err


def test_what_is_no_memory_or_run_is_refused(cli: Cli, root: Path) -> None:
    dataset = cli("-C", root, "datasets", "list", "--json").json[0]["id"]
    refused = cli("-C", root, "memory", "revoke", dataset, "no")
    assert refused.code != 0
    assert "is a dataset" in refused.err
    assert cli("-C", root, "memory", "revoke", "mem-none", "no").code == 6
