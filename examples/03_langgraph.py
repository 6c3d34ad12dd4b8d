"""Memory in a LangGraph of your own: a durable store, two nodes, and middleware for `create_agent`.

    python examples/03_langgraph.py

No model is needed: a chat model with fixed replies stands in for yours. The last part needs
`pip install 'agentkd[langchain]'`.
"""

from __future__ import annotations

import importlib.util
import tempfile
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

import agentkd
from agentkd.graph import AgentkdStore, recall_node, record_node

FOR_USER = ("users", "{user_id}")  # filled from the call's configurable
SETTINGS = {"memory": {"trial_share": 0.0}}  # no trials: every line below is the same at every start


class FixedReplies(BaseChatModel):
    """Stands in for a real chat model and prints what it is told besides the conversation."""

    replies: list[Any]

    @property
    def _llm_type(self) -> str:
        return "fixed"

    def bind_tools(self, tools: Any, **options: Any) -> FixedReplies:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        for message in messages:
            if message.type == "system":
                print("the model reads:", str(message.text).replace("\n", " | "))
        return ChatResult(generations=[ChatGeneration(message=self.replies.pop(0))])


def a_graph_of_your_own(shop: agentkd.Workspace) -> None:
    store = AgentkdStore(shop)  # any LangGraph takes it: graph.compile(store=store)
    store.put(("users", "ann"), "tea", {"content": "Ann drinks green tea without sugar."})
    store.put(("users", "bob"), "tea", {"content": "Bob drinks black tea with milk."})
    print("found:", [item.key for item in store.search(("users",), query="who takes sugar?", limit=1)])

    model = FixedReplies(replies=[AIMessage("Green tea, as always?")])
    graph = StateGraph(MessagesState)
    graph.add_node("recall", recall_node(shop, namespace=FOR_USER))
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("record", record_node(shop, namespace=FOR_USER))
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "model")
    graph.add_edge("model", "record")
    graph.add_edge("record", END)
    config: Any = {"configurable": {"thread_id": "1", "user_id": "ann"}}
    graph.compile(checkpointer=InMemorySaver()).invoke(
        {"messages": [HumanMessage("What tea do I drink?")]}, config
    )
    run = shop.trajectories()[-1]
    print("recorded:", run.answer, "| recalled:", len(run.recalled))


def an_agent_of_langchain(shop: agentkd.Workspace) -> None:
    from langchain.agents import create_agent
    from langchain.agents.middleware import HumanInTheLoopMiddleware

    from agentkd.graph import AgentkdMiddleware

    @tool
    def refund(order: str, cents: int) -> str:
        """Pay money back."""
        return f"paid {cents} cents for {order}"

    proposal = {"name": "refund", "args": {"order": "A-17", "cents": 900}, "id": "call-1"}
    model = FixedReplies(replies=[AIMessage("", tool_calls=[proposal]), AIMessage("You get 90 cents back.")])
    agent = create_agent(
        model,
        [refund],
        middleware=[HumanInTheLoopMiddleware({"refund": True}), AgentkdMiddleware(shop, namespace=FOR_USER)],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "2", "user_id": "ann"}}
    agent.invoke({"messages": [HumanMessage("Refund the tea of order A-17")]}, config)  # waits for a person
    edited = {"name": "refund", "args": {"order": "A-17", "cents": 90}}
    agent.invoke(Command(resume={"decisions": [{"type": "edit", "edited_action": edited}]}), config)

    run = shop.trajectories()[-1]
    print("proposed:", run.steps[0].reply.tool_calls[0].arguments)
    print("accepted:", run.steps[0].accepted_calls[0].arguments)
    print("learnt:  ", shop.ledger.corrections.for_trajectory(run.id)[0].text)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, agentkd.Workspace(folder, settings=SETTINGS) as shop:
        a_graph_of_your_own(shop)
        if importlib.util.find_spec("langchain") is not None:
            an_agent_of_langchain(shop)


if __name__ == "__main__":
    main()
