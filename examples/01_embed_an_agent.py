"""Embed an agent that learns: a local model, no key, no network once the model is in the cache.

    python examples/01_embed_an_agent.py

With a provider's model it is the same code: `shop.agent(..., model="openai/gpt-5-mini")`.
"""

from __future__ import annotations

import tempfile

import agentkd

ORDERS = {"ann@example.com": ["A-17 parcel, on its way"], "bob@example.com": ["B-04 book, delivered"]}


@agentkd.tool
def find_order(email: str) -> list[str]:
    """List the orders placed with this e-mail address."""
    return ORDERS.get(email, [])


def main() -> None:
    # A model of 135 million parameters does not decide well when to call a tool, so here it must.
    settings = {"agent": {"force_tool_call": True, "max_steps": 1}}
    with tempfile.TemporaryDirectory() as folder, agentkd.Workspace(folder, settings=settings) as shop:
        agent = shop.agent(tools=[find_order])
        for event in agent.stream("Find the order of ann@example.com"):
            print(type(event).__name__)
        run = shop.trajectories()[0]
        for step in run.steps:
            print("model:", step.reply.content)
            for result in step.results:
                print("tool: ", result.content)
        print("read:", run.usage.prompt_tokens, "tokens; written:", run.usage.completion_tokens)


if __name__ == "__main__":
    main()
