"""Thresholds: measured on the workspace's own memories, kept per embedder, overruled by hand."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import agentkd
from agentkd.cli.root import root
from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.embedders.hashing import HashingSettings
from agentkd.errors import DataError
from agentkd.ledger import Calibration
from agentkd.memory.calibrate import calibrate
from agentkd.memory.threshold import Thresholds, thresholds_for
from agentkd.schema import MemoryKeys

TOPICS = ("book a table at a restaurant", "cancel an order of shoes", "convert money into euros")
TONES = (
    "please",
    "kindly",
    "now",
    "today",
    "again",
    "for my wife",
    "as a gift",
    "before noon",
    "if you can",
    "soon",
)


@pytest.fixture
def learnt(lesson):
    """Thirty memories on three topics; each can be found by the request that it was learnt from."""
    return [
        lesson(f"somebody wants to {topic}", f"{topic}: step {at}-{number}").model_copy(
            update={"keys": MemoryKeys(situation=f"somebody wants to {topic} {tone}", task=f"{topic} {tone}")}
        )
        for number, topic in enumerate(TOPICS)
        for at, tone in enumerate(TONES)
    ]


def test_a_calibration_tells_related_from_unrelated(store, ledger, learnt):
    store.admit(learnt)
    report = calibrate(ledger, HashingEmbedder())
    found = report.calibration
    assert report.related[0] > found.min_score > report.unrelated[1]
    assert found.related_above <= found.merge_above < 1.0
    assert found.n_positive >= 30
    row = min(report.rows, key=lambda row: abs(row.threshold - found.min_score))
    assert row.recall > 0.9
    assert row.precision > 0.8
    recalls = [row.recall for row in report.rows]
    assert recalls == sorted(recalls, reverse=True)
    assert calibrate(ledger, HashingEmbedder()).rows == report.rows
    assert ledger.calibrations.get(found.fingerprint) is None  # measuring stores nothing


def test_one_tool_for_all_tells_nothing_apart_and_hinders_nothing(store, ledger, learnt):
    keys = [memory.keys.model_copy(update={"tools": "execute_sql"}) for memory in learnt]
    store.admit([m.model_copy(update={"keys": k}) for m, k in zip(learnt, keys, strict=True)])
    assert calibrate(ledger, HashingEmbedder()).calibration.n_positive >= 30


def test_the_request_itself_does_not_count_as_a_key(store, ledger, lesson):
    words = [f"w{at} x{at} y{at} z{at}" for at in range(40)]
    store.admit(lesson(f"quite another text {at}", f"do {at}", task=text) for at, text in enumerate(words))
    report = calibrate(ledger, HashingEmbedder())
    assert report.related[2] < 0.5  # by its `task` key it would be 1


def test_few_memories_are_refused(store, ledger, learnt):
    store.admit(learnt[:5])
    with pytest.raises(DataError, match="too few"):
        calibrate(ledger, HashingEmbedder())


def test_thresholds_are_those_of_the_fingerprint_and_what_is_set_has_the_last_word(ledger):
    own = Calibration(fingerprint="emb-a", min_score=0.6, min_words=0.9, related_above=0.7, merge_above=0.97)
    ledger.calibrations.put(own)
    found = thresholds_for("emb-a", MemorySettings(), ledger)
    assert (found.min_score, found.merge_above, found.source) == (0.6, 0.97, "calibrated")
    assert thresholds_for("emb-b", MemorySettings(), ledger) == Thresholds()
    set_by_hand = thresholds_for("emb-a", MemorySettings(min_score=0.1, merge_above=0.5), ledger)
    assert (set_by_hand.min_score, set_by_hand.related_above, set_by_hand.merge_above) == (0.1, 0.5, 0.5)
    assert ledger.calibrations.drop("emb-a")
    assert thresholds_for("emb-a", MemorySettings(), ledger) == Thresholds()
    with pytest.raises(ValueError, match="related_above"):
        Calibration(fingerprint="x", min_score=0.1, min_words=0.5, related_above=0.9, merge_above=0.8)


def test_recall_and_admission_follow_the_calibration(make_store, ledger, lesson):
    near, state = lesson("book a table", "reserve it"), "book a table for two people"
    make_store().admit([near])
    assert make_store(hybrid=False).recall(state) != []
    fingerprint = HashingEmbedder().fingerprint
    ledger.calibrations.put(
        Calibration(
            fingerprint=fingerprint, min_score=0.95, min_words=9.0, related_above=0.1, merge_above=0.2
        )
    )
    assert make_store().recall(state) == []
    other = HashingEmbedder(HashingSettings(dimensions=256))
    assert make_store(embedder=other, hybrid=False).recall(state) != []
    [answer] = make_store().admit([lesson("book a table for two", "reserve it")])
    assert answer.outcome == "merged"


def test_the_command_measures_keeps_and_forgets(tmp_path, learnt):
    settings = '[memory]\nindex = "exact"\nembedder = "hashing"\n'
    (tmp_path / "agentkd.toml").write_text(settings)
    with agentkd.Workspace(tmp_path) as workspace:
        workspace.memory.admit(learnt)
        before = workspace.parts.thresholds()

    def run(*arguments):
        result = CliRunner().invoke(root, ["--workspace", str(tmp_path), *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "min_score" in run("memory", "calibrate", "--dry-run")
    with agentkd.Workspace(tmp_path) as workspace:
        assert workspace.parts.thresholds() == before
    report = json.loads(run("--json", "memory", "calibrate"))
    with agentkd.Workspace(tmp_path) as workspace:
        found = workspace.parts.thresholds()
        assert found["min_score"] == report["calibration"]["min_score"] != before["min_score"]
        assert workspace.memory.thresholds.values() == found
    run("memory", "calibrate", "--reset")
    with agentkd.Workspace(tmp_path) as workspace:
        assert workspace.parts.thresholds() == before


def test_thresholds_ship_for_the_embedders_that_come_along(ledger):
    found = thresholds_for(HashingEmbedder().fingerprint, MemorySettings(), ledger)
    assert (found.source, found.min_score, found.merge_above) == ("shipped", 0.10, 0.92)
    other = HashingEmbedder(HashingSettings(dimensions=64)).fingerprint
    assert thresholds_for(other, MemorySettings(), ledger) == Thresholds()
