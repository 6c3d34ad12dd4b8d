"""What the suites promise: a ceiling of one, a floor of zero, quiet holdouts, answers judged by content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from agentkd_llb.data import find_folder
from agentkd_llb.order import same_order
from agentkd_llb.settings import LlbDbSettings
from agentkd_llb.suite import LlbDb, LlbDbSteps

from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.evaluate import baseline_result
from agentkd.plugins import PluginHost
from agentkd.protocols import Suite
from agentkd.schema import Message, Step, Task, ToolCall, Trajectory
from agentkd.testing import check_suite


def sql(text: str) -> ToolCall:
    return ToolCall(name="execute_sql", arguments={"sql": text})


def answer(**arguments) -> ToolCall:
    return ToolCall(name="answer", arguments=arguments)


def grade(suite: LlbDb, key: str, *calls: ToolCall):
    task = suite._tasks[f"db-{key}"]
    step = Step(index=0, reply=Message(role="assistant", tool_calls=calls), accepted_calls=calls)
    return suite.grade(Trajectory(id="t", run_id="r", task=task, steps=(step,)))


def is_right(suite: LlbDb, key: str, *calls: ToolCall) -> bool:
    return grade(suite, key, *calls).success


@pytest.mark.parametrize("kind", [LlbDb, LlbDbSteps])
def test_it_keeps_the_promise_of_a_suite(kind, folder, kit):
    suite = kind(folder)
    assert isinstance(suite, Suite)
    check_suite(suite, kit)


@pytest.mark.parametrize("kind", [LlbDb, LlbDbSteps])
def test_on_the_published_tasks_the_expert_is_always_right_and_doing_nothing_never(kind, published, kit):
    suite = kind(published)
    assert suite.splits() == {"train": 285, "holdout": 67}
    train = suite.tasks("train")
    for split in suite.splits():
        shares = {b.name: baseline_result(b, suite, suite.tasks(split)) for b in suite.baselines(train, kit)}
        assert shares["expert"].success.value == 1.0
        assert shares["noop"].success.value == 0.0
    assert shares["nearest neighbour copied"].success.value < 0.05  # on the holdout, which comes last


def test_tasks_are_held_out_by_their_key_and_equal_requests_stay_together(suite):
    split_of = {task.id: task.split for task in (*suite.tasks("train"), *suite.tasks("holdout"))}
    assert split_of["db-5"] == "holdout"
    assert split_of["db-10"] == split_of["db-1"] == "train"
    assert "db-6" not in split_of


def test_the_table_is_shown_in_one_step_and_hidden_in_many(suite, steps):
    assert suite.tasks("train")[0].prompt == "Which items cost 90?\nTable stock(id, item, price, sold)"
    assert steps.tasks("train")[0].prompt == "Which items cost 90?"


def test_rows_decide_about_a_question_whatever_the_statement(suite):
    assert is_right(suite, "1", sql("select item from stock where price > 40 order by item"))
    assert not is_right(suite, "1", sql("SELECT item, price FROM stock WHERE price = 90"))
    assert not is_right(suite, "1", sql("SELECT item FROM stock"))
    assert not is_right(suite, "1", sql("SELECT item FROM"))


def test_order_matters_where_the_request_sorts_but_ties_may_change_places(suite):
    assert is_right(suite, "2", sql("SELECT item, price FROM stock ORDER BY price DESC, item DESC"))
    assert is_right(suite, "2", sql("SELECT item, price FROM stock ORDER BY price DESC, item ASC"))
    assert not is_right(suite, "2", sql("SELECT item, price FROM stock ORDER BY price"))


def test_numbers_are_compared_with_a_tolerance_and_none_is_none(suite):
    assert is_right(suite, "5", sql("SELECT ROUND(AVG(price), 2) FROM stock"))
    assert not is_right(suite, "5", sql("SELECT '61.25'"))
    assert is_right(suite, "7", sql("SELECT item, sold FROM stock WHERE sold IS NULL"))
    assert not is_right(suite, "7", sql("SELECT item, '' FROM stock WHERE sold IS NULL"))


def test_the_state_of_the_table_decides_about_a_change(suite):
    assert is_right(suite, "3", sql("UPDATE stock SET price = 4 * 3 WHERE id = 4"))
    assert not is_right(suite, "3", sql("UPDATE stock SET price = 12"))
    assert not is_right(suite, "3", sql("SELECT * FROM stock"))


def test_a_change_that_touches_nothing_still_has_to_be_made(suite):
    assert is_right(suite, "4", sql("DELETE FROM stock WHERE price >= 501"))
    assert not is_right(suite, "4", sql("SELECT * FROM stock WHERE price > 500"))
    assert not is_right(suite, "4")


def test_a_question_does_not_change_the_table(steps):
    changed = (sql("DELETE FROM stock WHERE price < 50"), sql("SELECT item FROM stock"), answer())
    outcome = grade(steps, "1", *changed)
    assert not outcome.success
    assert "changed" in outcome.feedback


def test_in_one_step_the_first_statement_alone_counts(suite):
    right = sql("SELECT item FROM stock WHERE price = 90")
    assert not is_right(suite, "1", sql("SELECT 1"), right)


def test_many_steps_end_with_an_answer_of_the_last_rows_or_of_written_ones(steps):
    right = sql("SELECT item FROM stock WHERE price = 90")
    assert is_right(steps, "1", sql("SELECT nothing"), right, answer())
    assert is_right(steps, "1", right, sql("SELECT 1"), answer(rows=[["sofa"], ["desk"]]))
    assert is_right(steps, "1", right, answer(rows='["desk", "sofa"]'))
    assert not is_right(steps, "1", right, answer(rows="both"))
    assert not is_right(steps, "1", right, answer(rows="[" * 100_000))
    assert not same_order([[(1,)]], [[10**400]])
    assert not is_right(steps, "1", right)
    assert not is_right(steps, "1", answer(rows=[["desk"], ["sofa"]]))  # guessed without a look


def test_feedback_describes_the_difference_for_training_alone(suite):
    assert grade(suite, "1", sql("SELECT item FROM stock")).feedback.endswith("2 rows are wanted, not 4")
    held = grade(suite, "5", sql("SELECT price FROM stock"))
    assert "wanted" not in held.feedback
    assert held.expected == ()


def test_answers_are_told_for_training_alone_and_stand_in_no_task(suite, steps):
    for kind in (suite, steps):
        for task in (*kind.tasks("train"), *kind.tasks("holdout")):
            outcome = kind.grade(
                Trajectory(id="t", run_id="r", task=task.model_copy(update={"split": "train"}))
            )
            assert bool(outcome.expected) == (task.split == "train")
            assert kind._row(task.id).sql not in task.model_dump_json()
    with pytest.raises(ConfigError, match="held out"):
        suite.baselines(suite.tasks("holdout"), None)


def test_the_world_runs_statements_and_tells_errors(steps):
    world = steps.environment(steps.tasks("train")[0])
    assert "CREATE TABLE" in world.call(sql("SELECT sql FROM sqlite_master")).content
    assert (
        world.call(sql("SELECT item, sold FROM stock LIMIT 2")).content
        == '[["lamp", "2024-01-02"], ["desk", null]]'
    )
    assert world.call(sql("UPDATE stock SET price = 1")).content == "4 rows changed"
    refused = world.call(sql("SELECT cost FROM stock"))
    assert refused.error == "no such column: cost"
    assert not refused.ends_task
    assert world.call(answer()).ends_task
    assert not world.call(ToolCall(name="rm")).ok
    world.close()


def test_every_attempt_begins_with_the_same_table(suite):
    task = suite.tasks("train")[0]
    first, second = suite.environment(task), suite.environment(task)
    assert first.call(sql("DELETE FROM stock")).ends_task
    assert "lamp" in second.call(sql("SELECT * FROM stock")).content


def test_the_plugin_offers_both_suites_by_name(folder):
    host = PluginHost(auto=False, modules=["agentkd_llb"])
    assert host.registry.names("suite") == ["llb-db", "llb-db-steps"]
    assert host.registry.build("suite", "llb-db-steps", {"path": str(folder)}, None).name == "llb-db-steps"
    with pytest.raises(ConfigError, match="did you mean `path`"):
        host.registry.build("suite", "llb-db", {"paths": "x"}, None)


def test_missing_and_broken_data_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("AGENTKD_LLB", "AGENTKD_DATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as error:
        find_folder()
    assert "db_train.json" in str(error.value.hint)
    with pytest.raises(ConfigError, match="no file"):
        LlbDb(tmp_path)
    (tmp_path / "db_train.json").write_text('{"3": {"instruction": "?"}}', encoding="utf-8")
    with pytest.raises(DataError, match="task `3`"):
        LlbDb(tmp_path)


def test_the_folder_is_found_by_variable_and_upwards(tmp_path, folder, monkeypatch):
    for name in ("AGENTKD_LLB", "AGENTKD_DATA"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "shared" / "data" / "llb"
    deep = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_folder() == place
    monkeypatch.setenv("AGENTKD_DATA", str(place.parent))
    assert find_folder() == place
    monkeypatch.setenv("AGENTKD_LLB", str(folder))
    assert find_folder() == folder


def test_unknown_names_are_refused_with_a_hint(suite):
    with pytest.raises(ConfigError, match="did you mean `holdout`"):
        suite.tasks("hold-out")
    with pytest.raises(NotFoundError, match="db-99"):
        suite.environment(Task(id="db-99", prompt="?"))


def test_other_tasks_can_be_left_out_and_held_out(folder):
    other = LlbDb(folder, LlbDbSettings(exclude=("1",), holdout_every=2))
    ids = {split: {task.id for task in other.tasks(split)} for split in other.splits()}
    assert ids == {"train": {"db-3", "db-5", "db-7"}, "holdout": {"db-2", "db-4", "db-6", "db-10"}}


def test_offering_the_suites_loads_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import agentkd_llb; list(agentkd_llb.components());"
        "heavy = {'numpy', 'sqlite3', 'torch', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[1])], check=True)
