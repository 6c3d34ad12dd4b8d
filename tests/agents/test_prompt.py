"""Prompts have one head per suite, describe tools on one line, and put memory where it is read."""

from __future__ import annotations

from agentkd.agents import PromptBuilder, tool_line
from agentkd.config import AgentSettings
from agentkd.protocols import Views
from agentkd.schema import Message, Task, ToolSpec
from agentkd.skills import SkillCard

WEATHER = ToolSpec(
    name="get_weather",
    description="Tell the\n weather.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "array", "items": {"type": "integer"}},
            "zip": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "kind": {"const": "now"},
            "any": {},
        },
        "required": ["city"],
    },
)


def test_a_tool_is_one_line() -> None:
    assert tool_line(WEATHER) == (
        'get_weather(city: string, unit?: "C" | "F", days?: integer[], zip?: string | null, kind?: "now", '
        "any?: any): Tell the weather."
    )
    assert tool_line(ToolSpec(name="ping")) == "ping()"


def test_the_layout() -> None:
    builder: Views = PromptBuilder(AgentSettings(force_tool_call=True))
    task = Task(id="t", prompt="Rain in Oslo?", system="Be brief.")
    system, user = builder.prompt(task, tools=[ToolSpec(name="ping")], memory="Lessons:\n- one")
    assert system == Message(
        role="system", content="Reply with one tool call.\n\nTools:\nping()\n\nBe brief.", origin="system"
    )
    assert user == Message(role="user", content="Lessons:\n- one\n\nRequest: Rain in Oslo?")


def test_the_students_view_is_the_bare_request() -> None:
    builder = PromptBuilder(AgentSettings(force_tool_call=True))
    prompt = builder.prompt(Task(id="t", prompt="Rain?"), tools=[WEATHER], tool_docs=False)
    assert [m.content for m in prompt] == ["Reply with one tool call.", "Request: Rain?"]


def test_own_instructions_replace_the_built_in_ones() -> None:
    builder = PromptBuilder(AgentSettings(instructions="You help customers. "))
    assert builder.prompt(Task(id="t", prompt="?"), tools=[])[0].content == "You help customers."


def test_skills_are_listed_where_they_can_be_opened() -> None:
    builder = PromptBuilder(
        AgentSettings(instructions="Go."), lambda: [SkillCard(name="tea", description="Make tea.")]
    )
    task = Task(id="t", prompt="?")
    shown = builder.prompt(task, tools=[ToolSpec(name="read_skill")], tool_docs=False)[0].content
    assert shown == "Go.\n\nSkills, opened with `read_skill`:\n- tea: Make tea."
    assert builder.prompt(task, tools=[WEATHER], tool_docs=False)[0].content == "Go."


def test_history_follows_the_request() -> None:
    history = (Message(role="assistant", content="x"), Message(role="tool", content="y"))
    prompt = PromptBuilder(AgentSettings()).prompt(Task(id="t", prompt="?"), tools=[], history=history)
    assert prompt[2:] == history
