"""Correct an agent once; the next answer is different. A local model, no key.

python examples/02_correct_it.py
"""

from __future__ import annotations

import tempfile

import agentkd


@agentkd.tool
def find_order(email: str) -> list[str]:
    """List the orders placed with this e-mail address."""
    return [f"order of {email}"]


@agentkd.tool
def open_ticket(topic: str, urgent: bool) -> str:
    """Open a ticket for the support team."""
    return f"ticket on {topic}"


def call_of(run: agentkd.Trajectory) -> str:
    return run.steps[0].reply.content if run.steps else "nothing"


def main() -> None:
    settings = {"agent": {"force_tool_call": True, "max_steps": 1}}
    with tempfile.TemporaryDirectory() as folder, agentkd.Workspace(folder, settings=settings) as shop:
        agent = shop.agent(tools=[find_order, open_ticket])

        first = agent.run("My parcel came broken, I am ann@example.com")
        print("before:", call_of(first))

        accepted = agentkd.ToolCall(name="open_ticket", arguments={"topic": "broken parcel", "urgent": True})
        shop.correct(first, "Damage goes to the support team.", call=accepted, step=0)
        print("learnt:", shop.distill().summary)

        again = agent.run("My parcel arrived broken, I am ann@example.com")
        print("after: ", call_of(again))


if __name__ == "__main__":
    main()
