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
    with tempfile.TemporaryDirectory() as folder, agentkd.Workspace(folder) as shop:
        agent = shop.agent(tools=[find_order], instructions="You help customers. Look up the order first.")
        run = agent.run("Where is my parcel? I ordered as ann@example.com.")
        for step in run.steps:
            print("model: ", step.reply.content)
            for result in step.results:
                print("tool:  ", result.content)
        print("answer:", run.answer)
        print("stored:", shop.ledger.counts()["trajectories"], "trajectory")


if __name__ == "__main__":
    main()
