from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentkd.errors import DataError
from agentkd.interop import read_openai_traces

TAU = (
    Path(os.environ.get("AGENTKD_DATA") or Path(__file__).parents[3] / "shared" / "data")
    / "tau"
    / "gpt-4o-airline.trials01.json"
)


def call(name, arguments, id_="call_1"):
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


TRAJ = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Book a table."},
    {"role": "assistant", "content": None, "tool_calls": [call("find", '{"city": "Oslo"}')]},
    {"role": "tool", "tool_call_id": "call_1", "name": "find", "content": "Error: no such city"},
    {"role": "assistant", "content": "Which town?"},
    {"role": "user", "content": "Rome."},
    {"role": "assistant", "content": "Done."},
]


def written(tmp_path, records, name="traces.json", lines=False):
    file = tmp_path / name
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    file.write_text(text, encoding="utf-8")
    return file


def record(**changed):
    return {"task_id": 7, "reward": 1.0, "info": {"answer": "secret"}, "traj": TRAJ, "trial": 1, **changed}


def test_a_record_becomes_a_trajectory_with_steps_origins_and_outcome(tmp_path):
    (run,) = read_openai_traces(written(tmp_path, [record()]), suite="tau-airline")
    assert (run.task.id, run.task.suite, run.task.split, run.attempt) == ("7", "tau-airline", "train", 1)
    assert (run.task.prompt, run.task.system, run.answer) == ("Book a table.", "Be kind.", "Done.")
    assert run.success
    assert [m.origin for m in run.messages] == ["system", "user", "model", "tool", "model", "user", "model"]
    assert [step.index for step in run.steps] == [0, 1, 2]
    assert run.steps[0].accepted_calls[0].arguments == {"city": "Oslo"}
    assert run.steps[0].results[0].error == "Error: no such city"
    assert "secret" not in run.model_dump_json()  # what a grader knew stays out


def test_lines_and_lists_are_read_alike_and_ids_are_the_same_each_time(tmp_path):
    records = [record(), record(trial=2, reward=0.5)]
    one = read_openai_traces(written(tmp_path, records))
    two = read_openai_traces(written(tmp_path, records, "traces.jsonl", lines=True))
    assert [t.id for t in one] == [t.id for t in two]
    assert len({t.id for t in one}) == 2
    assert [t.success for t in one] == [True, False]
    assert one[1].outcome.reward == 0.5


def test_without_trial_and_reward_attempts_are_counted_and_runs_ungraded(tmp_path):
    plain = {"task_id": "a", "messages": TRAJ}
    first, second = read_openai_traces(written(tmp_path, [plain, plain]))
    assert (first.attempt, second.attempt) == (0, 1)
    assert first.outcome is None


def test_calls_are_paired_by_id_by_place_or_left_unanswered(tmp_path):
    calls = [call("a", "{}", "1"), call("b", "{}", "2"), call("c", "{}", "3")]
    answers = [
        {"role": "tool", "tool_call_id": "2", "content": "for b"},
        {"role": "tool", "tool_call_id": "1", "content": "for a"},
    ]
    traj = [TRAJ[1], {"role": "assistant", "content": "", "tool_calls": calls}, *answers]
    (run,) = read_openai_traces(written(tmp_path, [record(traj=traj)]))
    pairs = zip(run.steps[0].accepted_calls, run.steps[0].results, strict=True)
    assert [(c.name, r.content) for c, r in pairs] == [("a", "for a"), ("b", "for b")]
    assert len(run.steps[0].reply.tool_calls) == 3
    bare = [{k: v for k, v in answer.items() if k != "tool_call_id"} for answer in answers]
    (run,) = read_openai_traces(written(tmp_path, [record(traj=[*traj[:2], *bare])]))
    assert [r.content for r in run.steps[0].results] == ["for b", "for a"]


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '"text"'])
def test_arguments_that_are_no_object_are_kept_as_text(tmp_path, arguments):
    traj = [TRAJ[1], {"role": "assistant", "tool_calls": [call("a", arguments)]}, TRAJ[3]]
    (run,) = read_openai_traces(written(tmp_path, [record(traj=traj)]))
    assert run.steps[0].accepted_calls[0].arguments == {"arguments": arguments}


def test_parts_of_a_message_are_joined(tmp_path):
    parts = [{"type": "text", "text": "Book"}, {"type": "image_url"}, {"type": "text", "text": "a table"}]
    (run,) = read_openai_traces(
        written(tmp_path, [record(traj=[{"role": "user", "content": parts}, TRAJ[4]])])
    )
    assert run.task.prompt == "Book\na table"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("text", "is no object"),
        ({"task_id": 1}, "neither `messages` nor `traj`"),
        ({"messages": TRAJ}, "no `task_id`"),
        (record(traj=[{"role": "wizard"}]), "message 0 has no role"),
        (record(traj=[TRAJ[0]]), "no message of a user"),
        (record(reward="high"), "not a number"),
        (record(trial="first"), "not a whole number"),
        (record(traj=[TRAJ[1], {"role": "assistant", "tool_calls": [{}]}]), "without a function's name"),
        (record(traj=[TRAJ[1], {"role": "assistant", "tool_calls": "x"}]), "is no list"),
        (record(traj=[{"role": "user", "content": 3}]), "neither text nor a list"),
    ],
)
def test_a_file_with_one_broken_record_is_refused_whole_by_name(tmp_path, broken, told):
    with pytest.raises(DataError, match=told) as error:
        read_openai_traces(written(tmp_path, [record(), broken]))
    assert "[1]" in str(error.value)


@pytest.mark.skipif(not TAU.is_file(), reason="the tau traces are not on this machine")
def test_the_published_traces_are_read_whole():
    runs = read_openai_traces(TAU, suite="tau-airline")
    assert len(runs) == 100
    assert len({run.task.id for run in runs}) == 50
    assert all(len(s.accepted_calls) == len(s.results) for run in runs for s in run.steps)
    assert sum(bool(r.error) for run in runs for s in run.steps for r in s.results) > 20
