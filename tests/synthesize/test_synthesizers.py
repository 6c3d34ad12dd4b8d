"""Synthesizers: whom they ask about, what they show, what they refuse, and what a question costs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import BudgetError, DataError, ModelError
from agentkd.evaluate import make_student_report
from agentkd.models.remembered import Remembered
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import (
    Budget,
    Message,
    Outcome,
    Step,
    Synthetic,
    Task,
    TokenTrace,
    ToolCall,
    ToolSpec,
    Trajectory,
    Unusable,
)
from agentkd.synthesize import (
    ParaphraseSynthesizer,
    RandomSynthesizer,
    RationaleSynthesizer,
    TailoredSynthesizer,
    WriteSettings,
    fault_of,
)
from agentkd.synthesize.target import wrong_ones
from agentkd.testing import check_synthesizer

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = tuple(ToolSpec(name=name, description=f"Tell the {name}.", parameters=CITY) for name in "abc")


def run(number: int, tool: str, said: str, *, p: float = 0.5, split: str = "train") -> Trajectory:
    """Return a run on a task for one tool in which another one may have been called."""
    task = Task(
        id=f"t{number:02}", suite="s", split=split, prompt=f"Tell the {tool} of Rome {number}", tools=TOOLS
    )
    call = ToolCall(name=said, arguments={"city": "Rome"})
    reply = Message(role="assistant", tool_calls=(call,), origin="model")
    trace = TokenTrace(completion_ids=(1, 2), log_probs=(_log(p), _log(p)))
    expected = ToolCall(name=tool, arguments={"city": "Rome"})
    return Trajectory(
        id=f"tra-{number:02}",
        run_id="r",
        task=task,
        steps=(Step(index=0, reply=reply, accepted_calls=(call,), tokens=trace),),
        outcome=Outcome(
            success=said == tool, parts={"tool_choice": float(said == tool)}, expected=(expected,)
        ),
    )


def _log(p: float) -> float:
    import math

    return math.log(p)


RUNS = [run(n, "a", "b") for n in range(6)] + [run(n, "b", "a") for n in range(6, 9)]
RUNS += [run(9, "c", "c", p=0.9), run(10, "b", "b", p=0.9)]
REPORT = make_student_report(RUNS, suite="s", split="train", checkpoint="student@1")


def answer(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
    asked = messages[-1].content
    if "rewordings" in asked:
        number = re.findall(r"Rome (\d+)", asked)[0]
        return json.dumps({"requests": [f"In Rome {number}, what is it?", f"Rome {number}: say"]})
    accepted = json.loads(asked.partition("<accepted>\n")[2].partition("\n")[0])
    if "steps" in asked:
        return json.dumps({"steps": ["It says so."], "calls": [accepted]})
    place = f"P{sum(map(ord, asked)) % 997}"
    call = {"name": accepted["name"], "arguments": {"city": place}}
    return json.dumps(
        {"items": [{"request": f"And {place}{i}, {place}?", "calls": [call]} for i in range(2)]}
    )


def test_the_report_weighs_tools_mistakes_and_confidence() -> None:
    marks = {(m.kind, m.name): (m.n, m.success.value) for m in REPORT.marks}
    assert marks["tool", "a"] == (6, 0.0)
    assert marks["tool", "b"] == (4, 0.25)
    assert marks["skill", "tool_choice"] == (11, pytest.approx(2 / 11))
    assert [m.name for m in REPORT.marks if m.kind == "tool"] == ["a", "b", "c"]
    assert {mistake.kind for mistake in REPORT.mistakes} == {"tool"}
    assert REPORT.hardest[:6] == tuple(f"t{n:02}" for n in range(6))
    assert REPORT.confidence is not None
    # nine runs at 0.5, all wrong; two at 0.9, both right
    assert REPORT.confidence.ece == pytest.approx((9 * 0.5 + 2 * 0.1) / 11)
    assert REPORT.id == make_student_report(RUNS[::-1], suite="s", split="train", checkpoint="student@1").id


def test_a_report_refuses_held_out_runs() -> None:
    with pytest.raises(DataError, match="held out"):
        make_student_report([run(0, "a", "b", split="holdout")], suite="s", split="holdout")


def test_mistakes_come_in_the_share_of_their_tools() -> None:
    found = list(islice(wrong_ones(RUNS, REPORT), 18))
    for n in (3, 6, 9):
        tools = Counter(mistake.tool for _, mistake, _ in found[:n])
        assert tools == {"a": 2 * n // 3, "b": n // 3}
    assert [series for _, _, series in found] == [1] * 9 + [2] * 9
    then = islice(wrong_ones(RUNS, REPORT, {"a": 4}), 4)
    assert Counter(mistake.tool for _, mistake, _ in then) == {"b": 3, "a": 1}  # it has had its turn


def test_tailored_shows_the_mistake_and_random_does_not() -> None:
    said: dict[str, list[str]] = {}
    for synthesizer in (TailoredSynthesizer(), RandomSynthesizer()):
        teacher = ScriptedModel(answer, name="teacher")
        found = list(synthesizer.synthesize(RUNS, teacher, REPORT, {}, Budget(items=6)))
        assert len([one for one in found if isinstance(one, Synthetic)]) == 6
        said[synthesizer.name] = [call.messages[-1].content for call in teacher.calls]
        report = REPORT.id if synthesizer.name == "tailored" else ""
        assert {one.report for one in found if isinstance(one, Synthetic)} == {report}
    assert len(said["tailored"]) == len(said["random"]) == 3
    for asked in said["tailored"]:
        assert '{"tool": "a", "tasks": 6, "done": 0.0}' in asked
        assert "The student said" in asked
        assert '"description": "Tell the a."' in asked
        assert '"description": "Tell the b."' in asked
    assert not [asked for asked in said["random"] if "student" in asked.lower().replace("tra", "")]


@pytest.mark.parametrize(
    "synthesizer",
    [TailoredSynthesizer(), RandomSynthesizer(), RationaleSynthesizer(), ParaphraseSynthesizer()],
    ids=lambda s: s.name,
)
def test_the_built_in_synthesizers_keep_the_promise(synthesizer: Any) -> None:
    def said(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        asked = messages[-1].content
        if "rewordings" in asked:
            return json.dumps({"requests": [f"{sum(map(ord, asked))} people would like a table, please"]})
        call = {"name": "book_table", "arguments": {"people": 3}}
        if "steps" in asked:
            return json.dumps({"steps": ["Three people."], "calls": [call]})
        return json.dumps({"items": [{"request": f"A table {sum(map(ord, asked))}", "calls": [call]}]})

    check_synthesizer(synthesizer, ScriptedModel(said, name="teacher"))


def test_an_answer_that_does_not_fit_is_asked_for_once_more() -> None:
    good = {"request": "And Bonn?", "calls": [{"name": "a", "arguments": {"city": "Bonn"}}]}
    bad = {"request": "And Bonn?", "calls": [{"name": "z", "arguments": {"city": "Bonn"}}]}
    said = [json.dumps({"items": [bad]}), json.dumps({"items": [good]}), "no", "```json\n{}\n```"]
    teacher = ScriptedModel(said, name="teacher")
    synthesizer = TailoredSynthesizer(WriteSettings(workers=1, per_question=1))
    found = list(islice(synthesizer.synthesize(RUNS, teacher, REPORT, {}, Budget(items=2)), 2))
    assert isinstance(found[0], Synthetic)
    assert "no tool is called `z`" in teacher.calls[1].messages[-1].content
    assert isinstance(found[1], Unusable)
    assert "items: Field required" in found[1].error


def item(prompt: str, **arguments: Any) -> Synthetic:
    call = ToolCall(name="a", arguments=arguments)
    return Synthetic(synthesizer="x", teacher="y", seed="z", prompt=prompt, tools=TOOLS, calls=(call,))


def test_an_item_must_fit_its_schema_and_rest_on_its_request() -> None:
    assert fault_of(item("Tell me of New York", city="New York, NY")) == ""
    assert "city: 3 is not of type 'string'" in fault_of(item("Tell me of 3", city=3))
    assert "no parameter `town`" in fault_of(item("Of Bonn", city="Bonn", town="Bonn"))
    assert fault_of(item("Tell me", city="Bonn")) == "no argument of the calls stands in the request"


def test_a_question_is_paid_once_even_behind_a_torn_line(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    first = Remembered(ScriptedModel(["one", "two"], name="t"), log)
    ask = [Message(role="user", content="what?")]
    assert first.reply(ask, temperature=0.0, purpose="x").text == "one"
    with log.open("ab") as file:
        file.write(b'\n{"key": "torn')
    second = Remembered(ScriptedModel(["three"], name="t"), log)
    assert second.reply(ask, temperature=0.0, purpose="y").text == "one"
    assert second.reply(ask, temperature=1.0).text == "three"
    assert (second.n_asked, first.n_asked) == (1, 1)
    third = Remembered(ScriptedModel([], name="t"), log)
    assert third.reply(ask, temperature=1.0).text == "three"


def test_calls_in_flight_wait_for_room_instead_of_ending_the_phase(tmp_path: Path) -> None:
    inner = ScriptedModel(["one two three"], name="t", repeat=True)
    capped = Remembered(inner, tmp_path / "a", max_tokens=170)
    questions = [[Message(role="user", content=f"{number} " + "w" * 400)] for number in range(8)]
    with ThreadPoolExecutor(8) as pool:  # each may take 150 tokens and takes 5
        said = list(pool.map(lambda ask: capped.reply(ask, max_new_tokens=50).text, questions[:4]))
    assert said == ["one two three"] * 4
    with pytest.raises(BudgetError, match="20 of 170 are spent"):
        capped.reply(questions[4], max_new_tokens=60)


def test_a_dry_run_asks_nobody_and_a_ceiling_is_kept(tmp_path: Path) -> None:
    inner = ScriptedModel(["one two three"], name="t", repeat=True)
    ask = [Message(role="user", content="w" * 400)]
    dry = Remembered(inner, tmp_path / "a", is_dry=True)
    with pytest.raises(ModelError, match="dry run"):
        dry.reply(ask, max_new_tokens=50)
    assert (dry.spent.prompt_tokens, dry.spent.completion_tokens, inner.calls) == (100, 50, [])
    capped = Remembered(inner, tmp_path / "b", max_tokens=155)
    capped.reply(ask, max_new_tokens=50)  # takes 1 + 3 words of the 150 that it might have
    with pytest.raises(BudgetError, match="4 of 155 are spent"):
        capped.reply([Message(role="user", content="v" * 400)], max_new_tokens=60)
