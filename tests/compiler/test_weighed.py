"""Earlier turns and tool results weigh something only where they may be learnt from."""

from __future__ import annotations

import pytest

from agentkd.agents import PromptBuilder
from agentkd.config import AgentSettings, TrustSettings
from agentkd.schema import ToolResult

WEIGHTS = {"role_weights": {"observation": 0.125, "history": 0.25}}


@pytest.fixture
def learnt(make, rows):
    """Give a function that compiles and returns what is weighed in the last row's history, by weight."""

    def compile_(*args, **more):
        row = rows(make.compile(make.inputs(*args, **more), settings=WEIGHTS))[-1]
        pairs = list(zip(row.student.ids, row.student.weights, strict=True))
        return tuple(make.tokenizer.decode([t for t, w in pairs if w == weight]) for weight in (0.25, 0.125))

    return compile_


def three(make, name="t0", success=True, results=("one", "two", "three"), declared="", **more):
    """A run of three calls."""
    calls = (make.call("find"), make.call("book", people=2), make.call("book", people=3))
    run = make.run(name, calls=calls, success=success, **more)
    steps = []
    for step, said in zip(run.steps, results, strict=True):
        answer = said if isinstance(said, ToolResult) else ToolResult(content=said, trust=declared)
        steps.append(step.model_copy(update={"results": (answer,)}))
    return run.model_copy(update={"steps": tuple(steps)})


def test_what_is_a_target_itself_weighs_in_later_rows(make, learnt):
    said, heard = learnt([three(make)])
    assert '"find"' in said
    assert '"people": 2' in said
    assert "one" in heard
    assert "two" in heard


def test_a_call_that_failed_on_the_way_weighs_nothing(make, learnt):
    said, heard = learnt([three(make, results=(ToolResult(error="gone"), "two", "three"))])
    assert '"find"' not in said
    assert '"people": 2' in said
    assert "gone" in heard  # that a tool answers so may be known


def test_the_way_to_a_corrected_failure_weighs_nothing(make, learnt):
    run = three(make, success=False)
    right = make.correction(run, make.call("book", people=4), step=2, proposed=())
    bare = run.model_copy(update={"steps": (*run.steps[:2], run.steps[2].model_copy(
        update={"reply": run.steps[2].reply.model_copy(update={"tool_calls": ()})})),
    })  # fmt: skip
    said, heard = learnt([bare], [right])
    assert said == ""
    assert "two" in heard


@pytest.mark.parametrize("gate", [True, False])
def test_untrusted_output_weighs_nothing_where_the_gate_is_shut(make, learnt, gate):
    run = three(make, declared="untrusted", success=False)
    bare = run.model_copy(update={"steps": (*run.steps[:2], run.steps[2].model_copy(
        update={"reply": run.steps[2].reply.model_copy(update={"tool_calls": ()})})),
    })  # fmt: skip
    right = make.correction(run, make.call("book", people=4), step=2)
    _, heard = learnt([bare], [right], trust=TrustSettings(gate=gate))
    assert ("two" in heard) is not gate


def test_what_the_trust_gate_held_back_weighs_nothing(make, learnt):
    """A person vouches for the last call alone; the calls before it came after untrusted output."""
    run = three(make, declared="untrusted")
    right = make.correction(run, make.call("book", people=3), step=2, source="person")
    assert learnt([run], [right]) == ("", "")


def test_redacted_text_weighs_nothing(make, learnt):
    _, heard = learnt([three(make, results=("key [redacted:token] x", "two", "three"))])
    assert "redacted" not in heard
    assert "two" in heard


def test_prompts_that_tell_the_history_in_another_way_weigh_nothing(make, learnt):
    class Brief(PromptBuilder):
        def prompt(self, task, *, history=(), **more):
            told = [message.model_copy(update={"content": "x"}) for message in history]
            return super().prompt(task, history=told, **more)

    assert learnt([three(make)], views=Brief(AgentSettings(force_tool_call=True))) == ("", "")
