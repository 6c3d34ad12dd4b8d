"""Anybody's own tasks from a file: loaded whole or not at all."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.evaluate import JsonlSettings, JsonlSuite, build_jsonl_suite
from agentkd.protocols import Suite
from agentkd.schema import Message, Step, Task, ToolCall, Trajectory

TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


def write(tmp_path, *lines):
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


def done(task: Task, answer: str = "", calls=()) -> Trajectory:
    step = Step(index=0, reply=Message(role="assistant", content=answer), accepted_calls=tuple(calls))
    return Trajectory(id="t", run_id="r", task=task, steps=(step,), answer=answer)


@pytest.fixture
def suite(tmp_path) -> JsonlSuite:
    return JsonlSuite(
        write(
            tmp_path,
            {"id": "sum", "prompt": "2 + 3?", "answer": ["5", "five"], "split": "train"},
            "",
            {"id": "city", "prompt": "Capital?", "contains": ["Paris", "France"], "split": "train"},
            {"id": "year", "prompt": "When?", "regex": r"\b1\d{3}\b", "split": "holdout"},
            {"id": "call", "prompt": "Add 1", "calls": [{"name": "add", "arguments": {"a": 1}}],
             "tools": [TOOL], "split": "train", "extras": {"level": 3}},
            {"id": "secret", "prompt": "3 + 4?", "answer": "7", "split": "holdout", "system": "Be brief."},
        )
    )  # fmt: skip


def tasks(suite):
    return {task.id: task for split in suite.splits() for task in suite.tasks(split)}


def test_it_keeps_the_promise_of_a_suite(suite):
    assert isinstance(suite, Suite)
    assert suite.splits() == {"holdout": 2, "train": 3}


def test_each_line_is_graded_by_its_own_rule(suite):
    found = tasks(suite)
    assert suite.grade(done(found["sum"], "five")).success
    assert suite.grade(done(found["city"], "paris, in FRANCE")).success
    half = suite.grade(done(found["city"], "Paris"))
    assert (half.success, half.reward) == (False, 0.5)
    assert suite.grade(done(found["year"], "In 1789.")).success
    assert suite.grade(done(found["call"], calls=[ToolCall(name="add", arguments={"a": 1})])).success
    wrong = suite.grade(done(found["call"], calls=[ToolCall(name="add", arguments={"a": 2})]))
    assert wrong.parts == {"tool_choice": 1.0, "valid_call": 1.0}
    assert wrong.grader == "calls"


def test_what_is_right_is_told_for_training_alone(suite):
    found = tasks(suite)
    assert suite.grade(done(found["call"])).expected == (ToolCall(name="add", arguments={"a": 1}),)
    assert "Accepted: 5; five" in suite.grade(done(found["sum"], "6")).feedback
    held = suite.grade(done(found["secret"], "6"))
    assert "7" not in held.feedback
    assert (held.expected, held.expected_answer) == ((), "")
    disguised = found["secret"].model_copy(update={"split": "train"})
    assert "7" not in suite.grade(done(disguised, "6")).feedback


def test_the_first_accepted_answer_is_told_where_the_whole_text_is_graded(suite):
    found = tasks(suite)
    assert suite.grade(done(found["sum"], "6")).expected_answer == "5"
    for id in ("city", "year", "call", "secret"):
        assert suite.grade(done(found[id], "6")).expected_answer == ""
    disguised = found["secret"].model_copy(update={"split": "train"})
    assert suite.grade(done(disguised, "6")).expected_answer == ""


def test_a_task_carries_its_line_but_no_answer(suite):
    found = tasks(suite)
    assert found["secret"].system == "Be brief."
    assert found["call"].extras == {"level": 3}
    assert [tool.name for tool in found["call"].tools] == ["add"]
    assert "five" not in found["sum"].model_dump_json()


def test_the_world_of_a_calls_task_ends_after_its_calls(suite):
    found = tasks(suite)
    world = suite.environment(found["call"])
    assert [tool.name for tool in world.tools] == ["add"]
    assert world.call(ToolCall(name="add", arguments={"a": 5})).ends_task
    assert suite.environment(found["sum"]).tools == ()
    assert suite.environment(found["sum"]).call(ToolCall(name="add")).error


def test_lines_without_a_split_are_dealt_out_in_the_wanted_share(tmp_path):
    lines = [{"prompt": f"question {i}", "answer": "x"} for i in range(40)]
    path = write(tmp_path, *lines)
    one, two = JsonlSuite(path), JsonlSuite(path)
    assert one.splits() == {"holdout": 10, "train": 30}
    assert one.tasks("holdout") == two.tasks("holdout")
    other = JsonlSuite(path, JsonlSettings(seed=1, holdout_share=0.5))
    assert other.splits()["holdout"] == 20
    assert other.tasks("holdout")[:10] != one.tasks("holdout")


def test_a_file_that_grows_keeps_most_of_its_split(tmp_path):
    lines = [{"prompt": f"question {i}", "answer": "x"} for i in range(44)]
    before = {t.id for t in JsonlSuite(write(tmp_path, *lines[:40])).tasks("holdout")}
    after = {t.id for t in JsonlSuite(write(tmp_path, *lines)).tasks("holdout")}
    assert len(before & after) >= 7


def test_a_group_never_straddles(tmp_path):
    lines = [{"id": str(i), "prompt": f"q {i}", "group": f"g{i // 4}", "answer": "x"} for i in range(40)]
    suite = JsonlSuite(write(tmp_path, *lines))
    held = {task.group for task in suite.tasks("holdout")}
    assert not held & {task.group for task in suite.tasks("train")}


def test_equal_requests_share_a_split(tmp_path):
    lines = [{"id": f"{i}{c}", "prompt": f"{c}uestion  {i}", "answer": "x"} for i in range(20) for c in "qQ"]
    suite = JsonlSuite(write(tmp_path, *lines))
    assert not {t.group for t in suite.tasks("holdout")} & {t.group for t in suite.tasks("train")}
    clash = [{**lines[0], "split": "train"}, {**lines[1], "split": "holdout"}]
    with pytest.raises(DataError, match=r"line 2 of .*another of its group in `train`"):
        JsonlSuite(write(tmp_path, *clash))


def test_a_line_without_split_follows_its_group(tmp_path):
    lines = [{"id": "a", "prompt": "x", "group": "g", "answer": "1", "split": "test"},
             {"id": "b", "prompt": "y", "group": "g", "answer": "1"}]  # fmt: skip
    assert JsonlSuite(write(tmp_path, *lines)).splits() == {"test": 2}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "x", "answer": ', "not JSON"),
        ('["x"]', "an object is wanted, not list"),
        ({"answer": "x"}, "`prompt`: Field required"),
        ({"prompt": "x"}, "exactly one of `answer`, `contains`, `regex`, `calls` is wanted, found none"),
        ({"prompt": "x", "answer": "a", "regex": "a"}, "found `answer` and `regex`"),
        ({"prompt": "x", "answr": "a"}, "unknown key `answr`.*did you mean `answer`"),
        ({"prompt": "x", "regex": "("}, "not a regular expression"),
        ({"prompt": "x", "calls": [{"name": "add"}]}, "`calls` names `add`, which is not among `tools`"),
        ({"prompt": "x", "answer": "a", "tools": [TOOL]}, "only offered to a task with `calls`"),
        ({"prompt": "x", "answer": 5}, "`answer"),
        ({"id": "first", "prompt": "y", "answer": "a"}, "the id `first` was used in line 1"),
    ],
)
def test_one_broken_line_refuses_the_file_and_is_named(tmp_path, line, says):
    path = write(tmp_path, {"id": "first", "prompt": "p", "answer": "a"}, "", line)
    with pytest.raises(DataError, match=f"line 3 of `{path}`: .*{says}") as caught:
        JsonlSuite(path)
    assert caught.value.context == {"path": str(path), "line": 3}


def test_missing_empty_and_binary_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        JsonlSuite(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no task"):
        JsonlSuite(write(tmp_path, "", " "))
    binary = tmp_path / "tasks.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        JsonlSuite(binary)


def test_unknown_splits_and_tasks_are_named(suite):
    with pytest.raises(ConfigError, match="did you mean `train`"):
        suite.tasks("trian")
    with pytest.raises(NotFoundError, match="`nobody`"):
        suite.environment(Task(id="nobody", prompt="?"))


def test_a_sample_is_the_head_of_a_seeded_shuffle(tmp_path):
    suite = JsonlSuite(
        write(tmp_path, *[{"prompt": f"q{i}", "answer": "x", "split": "s"} for i in range(30)])
    )
    assert suite.tasks("s", 5, seed=2) == suite.tasks("s", 9, seed=2)[:5]
    assert suite.tasks("s", 5, seed=2) != suite.tasks("s", 5, seed=3)
    assert len(suite.tasks("s", 99)) == 30


def test_the_factory_asks_for_a_path(tmp_path):
    with pytest.raises(ConfigError, match="needs the path"):
        build_jsonl_suite(JsonlSettings(), SimpleNamespace())
    path = write(tmp_path, {"prompt": "x", "answer": "y"})
    assert build_jsonl_suite(JsonlSettings(path=str(path)), SimpleNamespace()).baselines([], None) == ()
