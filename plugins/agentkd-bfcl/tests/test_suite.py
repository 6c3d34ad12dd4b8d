"""What the suite promises: splits without leaks, a ceiling of one, a floor of zero, quiet holdouts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agentkd_bfcl.answer import accepted_call, is_valid
from agentkd_bfcl.settings import BfclLiveSettings
from agentkd_bfcl.suite import BfclLive

from agentkd.embedders.hashing import HashingEmbedder
from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.plugins import PluginHost
from agentkd.protocols import Suite
from agentkd.schema import Message, Step, Task, ToolCall, Trajectory

SPLITS = ("train", "dev", "train-inner", "holdout", "holdout-unseen")


def run(task: Task, *calls: ToolCall) -> Trajectory:
    step = Step(index=0, reply=Message(role="assistant", tool_calls=calls), accepted_calls=calls)
    return Trajectory(id="t", run_id="r", task=task, steps=(step,))


def gold(suite: BfclLive, task: Task) -> ToolCall:
    """The expert's call, taken from the suite's inside: no public way tells it for a holdout."""
    item = suite._items[task.id]
    return accepted_call(item.tool, item.row.answer)


def test_it_keeps_the_promise_of_a_suite(suite):
    assert isinstance(suite, Suite)


def test_the_demo_learns_from_491_requests_and_holds_out_200(suite):
    sizes = suite.splits()
    assert (sizes["train"], sizes["holdout"]) == (491, 200)
    assert sizes["train-inner"] + sizes["dev"] == 491
    assert sizes["dev"] == 74
    assert len(suite.tools) == 26
    assert sizes["holdout-unseen"] > 500


def test_splits_are_the_same_on_every_load(suite, data_folder):
    again = BfclLive(data_folder)
    for split in SPLITS:
        assert again.tasks(split) == suite.tasks(split)


def test_another_seed_holds_out_other_requests(suite, data_folder):
    other = BfclLive(data_folder, BfclLiveSettings(seed=8))
    assert other.splits()["holdout"] == 200
    assert {t.id for t in other.tasks("holdout")} != {t.id for t in suite.tasks("holdout")}


def test_no_group_of_near_copies_straddles_train_and_a_holdout(suite):
    learnt = {task.group for task in suite.tasks("train")}
    for split in ("holdout", "holdout-unseen"):
        assert not learnt & {task.group for task in suite.tasks(split)}


def test_dev_is_a_part_of_train_and_shares_no_group_with_the_rest(suite):
    train, dev, inner = ({t.id for t in suite.tasks(s)} for s in ("train", "dev", "train-inner"))
    assert dev | inner == train
    assert not dev & inner
    groups = {t.group for t in suite.tasks("dev")}
    assert not groups & {t.group for t in suite.tasks("train-inner")}


def test_every_tool_is_seen_in_training_and_none_of_the_unseen_ones(suite):
    def called(split):
        return {gold(suite, t).name for t in suite.tasks(split)}

    assert called("train") == {tool.name for tool in suite.tools}
    assert called("holdout") <= called("train")
    assert not called("holdout-unseen") & called("train")


def test_the_same_sample_comes_first_for_the_same_seed(suite):
    few, more = suite.tasks("holdout", 20, seed=3), suite.tasks("holdout", 40, seed=3)
    assert more[:20] == few
    assert suite.tasks("holdout", 20, seed=4) != few
    assert len(suite.tasks("holdout", 10_000)) == 200


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_is_always_right_and_its_calls_fit_the_offered_schema(suite, split):
    for task in suite.tasks(split):
        call = gold(suite, task)
        outcome = suite.grade(run(task, call))
        assert outcome.success, (task.id, outcome.feedback)
        assert outcome.parts == {"tool_choice": 1.0, "valid_call": 1.0}
        offered = {tool.name: tool for tool in suite.environment(task).tools}
        assert is_valid(call.arguments, offered[call.name].parameters)
        assert list(call.arguments) == [
            name for name in offered[call.name].parameters["properties"] if name in call.arguments
        ]


@pytest.mark.parametrize("split", SPLITS)
def test_doing_nothing_is_never_right(suite, split):
    for task in suite.tasks(split):
        outcome = suite.grade(run(task))
        assert not outcome.success
        assert outcome.reward == 0.0
        assert set(outcome.parts.values()) == {0.0}


def test_a_second_call_spoils_the_answer(suite):
    task = suite.tasks("dev")[0]
    call = gold(suite, task)
    assert not suite.grade(run(task, call, call)).success


def test_answers_are_told_for_training_alone(suite):
    for split in ("train", "dev", "train-inner"):
        task = suite.tasks(split)[3]
        assert suite.grade(run(task)).expected == (gold(suite, task),)
    for split in ("holdout", "holdout-unseen"):
        for task in suite.tasks(split):
            assert suite.grade(run(task)).expected == ()


def test_a_holdout_task_in_disguise_still_tells_nothing(suite):
    task = suite.tasks("holdout")[0].model_copy(update={"split": "train"})
    assert suite.grade(run(task)).expected == ()
    with pytest.raises(ConfigError, match="held out"):
        suite.baselines([task], None)


def test_a_task_holds_no_answer(suite):
    for split in SPLITS:
        for task in suite.tasks(split):
            assert task.extras == {}
            assert task.tools == ()


def test_feedback_of_a_holdout_names_neither_tool_nor_value(suite):
    for task in suite.tasks("holdout"):
        call = gold(suite, task)
        for wrong in (run(task), run(task, ToolCall(name="nonsense")), run(task, ToolCall(name=call.name))):
            feedback = suite.grade(wrong).feedback
            values = [v for v in call.arguments.values() if isinstance(v, str) and len(v) > 3]
            assert not any(value in feedback for value in values)
            if wrong.steps[0].reply.tool_calls[:1] != (ToolCall(name=call.name),):
                assert call.name not in feedback


def test_the_world_takes_one_call_and_ends(suite):
    task = suite.tasks("train")[0]
    world = suite.environment(task)
    assert {tool.name for tool in world.tools} == {tool.name for tool in suite.tools}
    first = world.call(ToolCall(name="__import__('os').system('false')"))
    assert first.ok
    assert first.ends_task
    assert world.call(ToolCall(name="again")).error
    world.close()


def test_tools_seen_in_training_are_offered_alike_for_every_seen_task(suite):
    for split in ("train", "holdout"):
        assert all(suite.environment(t).tools == suite.tools for t in suite.tasks(split))


def test_offered_tools_have_closed_schemas_with_bounded_strings(suite):
    for tool in suite.tools:
        assert tool.parameters["type"] == "object"
        assert tool.parameters["additionalProperties"] is False
        for schema in tool.parameters["properties"].values():
            assert schema["type"] in {"string", "integer", "number", "boolean", "array"}
            if schema["type"] == "string":
                assert "enum" in schema or schema["maxLength"] > 0


def test_baselines_answer_from_training_alone(suite, make_kit):
    train, held = suite.tasks("train"), suite.tasks("holdout")
    baselines = suite.baselines(train, make_kit(HashingEmbedder()))
    assert [b.name for b in baselines] == ["nearest neighbour copied", "tool description match", "majority"]
    shares = {}
    for baseline in baselines:
        outcomes = [suite.grade(run(task, *baseline.answer(task))) for task in held]
        shares[baseline.name] = (
            sum(o.parts["tool_choice"] for o in outcomes) / 200,
            sum(o.success for o in outcomes) / 200,
        )
    assert shares["nearest neighbour copied"][0] > 0.7
    assert all(right < 0.1 for _, right in shares.values())
    assert shares["majority"][0] == pytest.approx(18 / 200)
    copied = baselines[0].answer(train[5])[0]
    assert copied == gold(suite, train[5])


def test_no_baselines_without_training_tasks(suite):
    assert suite.baselines([], None) == ()


def test_unknown_names_are_refused_with_a_hint(suite):
    with pytest.raises(ConfigError, match="did you mean `holdout`"):
        suite.tasks("hold-out")
    with pytest.raises(NotFoundError, match="live_multiple_x"):
        suite.environment(Task(id="live_multiple_x", prompt="?"))


def test_settings_that_ask_for_too_much_are_refused(data_folder):
    with pytest.raises(ConfigError, match="too few"):
        BfclLive(data_folder, BfclLiveSettings(train=5000))
    with pytest.raises(ConfigError, match="only 26 tools"):
        BfclLive(data_folder, BfclLiveSettings(n_tools=300))


def test_fewer_tools_make_a_smaller_suite(data_folder):
    small = BfclLive(data_folder, BfclLiveSettings(n_tools=4, train=100, holdout=40))
    assert len(small.tools) == 4
    assert small.splits()["holdout"] == 40


def test_a_folder_without_data_and_a_broken_line_are_named(tmp_path, data_folder):
    with pytest.raises(DataError, match="bfcl-eval"):
        BfclLive(tmp_path)
    copied = tmp_path / "bfcl_eval" / "data"
    (copied / "possible_answer").mkdir(parents=True)
    for name in ("BFCL_v4_live_multiple.json", "BFCL_v4_live_simple.json"):
        for part in (".", "possible_answer"):
            source = data_folder / "bfcl_eval" / "data" / part / name
            (copied / part / name).write_bytes(source.read_bytes())
    broken = copied / "BFCL_v4_live_simple.json"
    lines = broken.read_text(encoding="utf-8").splitlines()
    broken.write_text("\n".join([*lines[:4], "{", *lines[4:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 5 of .*BFCL_v4_live_simple\.json"):
        BfclLive(tmp_path)
    first = json.loads(lines[0])
    del first["function"]
    broken.write_text(json.dumps(first), encoding="utf-8")
    with pytest.raises(DataError, match="live_simple_0-0-0"):
        BfclLive(tmp_path)


def test_the_plugin_is_found_by_module_name_and_builds_the_suite(make_kit):
    host = PluginHost(auto=False, modules=["agentkd_bfcl"])
    assert host.registry.names("suite") == ["bfcl-live"]
    assert host.versions == {"agentkd_bfcl": "0.1.0"}
    suite = host.registry.build("suite", "bfcl-live", {"holdout": 50}, make_kit())
    assert suite.splits()["holdout"] == 50
    with pytest.raises(ConfigError, match="did you mean `holdout`"):
        host.registry.build("suite", "bfcl-live", {"holdouts": 50}, make_kit())


def test_offering_the_suite_loads_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import agentkd_bfcl; list(agentkd_bfcl.components());"
        "heavy = {'numpy', 'jsonschema', 'torch', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[1])], check=True)
