"""A small file of the benchmark's shape, written here, and the published one where it is at hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a copied tree is tested without installation

from agentkd_llb.data import find_folder
from agentkd_llb.suite import LlbDb, LlbDbSteps

from agentkd.embedders.hashing import HashingEmbedder
from agentkd.errors import ConfigError


def task(instruction, sql, direct=None):
    columns = [("id", "INT"), ("item", "TEXT"), ("price", "INT"), ("sold", "TEXT")]
    rows = [
        [1, "lamp", 40, "2024-01-02"],
        [2, "desk", 90, None],
        [3, "sofa", 90, "2024-02-01"],
        [4, "rug", 25, "2024-02-03"],
    ]
    return {
        "instruction": instruction,
        "answer_info": {"direct": direct, "md5": None if direct is not None else "0", "sql": sql},
        "table_info": {
            "name": "stock",
            "column_info_list": [{"name": n, "type": t} for n, t in columns],
            "row_list": rows,
        },
        "skill_list": ["select" if direct is not None else "update"],
    }


TASKS = {
    "1": task("Which items cost 90?", "SELECT item FROM stock WHERE price = 90;", [["desk"], ["sofa"]]),
    "2": task(
        "List items by price, dearest first.",
        "SELECT item, price FROM stock ORDER BY price DESC;",
        [["sofa", 90], ["desk", 90], ["lamp", 40], ["rug", 25]],
    ),
    "3": task("Halve the price of the rug.", "UPDATE stock SET price = 12 WHERE item = 'rug';"),
    "4": task("Remove what costs more than 500.", "DELETE FROM stock WHERE price > 500;"),
    "5": task("What is the mean price?", "SELECT AVG(price) AS mean FROM stock;", [[61.2500]]),
    "6": task("Left out.", "SELECT 1 FROM stock LIMIT 1;", [[1]]),
    "7": task(
        "Which items are not sold?", "SELECT item, sold FROM stock WHERE sold IS NULL", [["desk", None]]
    ),
    "10": task("Which   ITEMS cost 90?", "SELECT item FROM stock WHERE price = 90;", [["desk"], ["sofa"]]),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "db_train.json").write_text(json.dumps(TASKS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def suite(folder) -> LlbDb:
    return LlbDb(folder)


@pytest.fixture
def steps(folder) -> LlbDbSteps:
    return LlbDbSteps(folder)


@pytest.fixture(scope="session")
def published() -> Path:
    try:
        return find_folder()
    except ConfigError:
        pytest.skip("the published tasks are not here: see the README of the plugin")


class Kit:
    def embedder(self):
        return HashingEmbedder()


@pytest.fixture
def kit():
    return Kit()
