"""The world of the NesyCD benchmark: customers' accounts on SQLite, real tools, and a suite over them.

The procedure (which tool, which code) is the same for all customers and stands in no schema. The facts (which
account is whose) are known for some customers only, and change.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkd.schema import Outcome, Task, ToolCall, ToolResult, Trajectory
from agentkd.tools import FunctionTool, ToolBox, tool

__all__ = ["INTENTS", "Desk", "Intent"]

View = Literal["A1", "B2", "C3", "D4"]
State = Literal["P", "S", "R"]

_FIRST = (
    "Mara",
    "Ivo",
    "Lena",
    "Otto",
    "Rita",
    "Paul",
    "Vera",
    "Hugo",
    "Nora",
    "Emil",
    "Dana",
    "Kurt",
    "Olga",
    "Finn",
    "Elsa",
    "Theo",
    "Anna",
    "Jost",
    "Irma",
    "Carl",
)
_LAST = (
    "Lindt",
    "Berger",
    "Novak",
    "Holm",
    "Weiss",
    "Duval",
    "Santos",
    "Petrov",
    "Keller",
    "Moreau",
    "Rossi",
    "Jansen",
    "Brandt",
    "Kovac",
    "Nielsen",
)


@dataclass(frozen=True)
class Intent:
    """One thing that is asked for, and the call that answers it."""

    name: str
    tool: str
    argument: str
    code: str
    wordings: tuple[str, ...]
    """Requests; the last two are for held-out tasks alone."""


INTENTS = (
    Intent(
        "debt",
        "read_account",
        "view",
        "C3",
        (
            "How much does {} still owe us?",
            "Does {} owe us anything?",
            "Show me the debt of {}.",
            "How much money is {} behind with?",
            "What is the open debt of {}?",
            "Tell me what {} has to pay yet.",
            "Which sum does {} owe?",
            "What has {} not paid so far?",
        ),
    ),
    Intent(
        "credit",
        "read_account",
        "view",
        "A1",
        (
            "How much credit does {} have?",
            "Show me the credit limit of {}.",
            "For how much may {} order without paying at once?",
            "What credit did we grant to {}?",
            "What is the credit line of {}?",
            "Up to which sum may {} buy on credit?",
            "How high is the credit of {}?",
            "Tell me the credit limit for {}.",
        ),
    ),
    Intent(
        "turnover",
        "read_account",
        "view",
        "D4",
        (
            "What did {} buy for this year?",
            "Show me the sales to {} this year.",
            "For how much did {} order this year?",
            "What have we earned with {} since January?",
            "What is the turnover with {}?",
            "How much have we sold to {}?",
            "Tell me this year's sales to {}.",
            "How large is our turnover with {}?",
        ),
    ),
    Intent(
        "discount",
        "read_account",
        "view",
        "B2",
        (
            "Which discount does {} get?",
            "Show me the rebate that {} has.",
            "Do we give {} a discount, and which?",
            "What is taken off the price for {}?",
            "What is the rebate of {}?",
            "By how much are prices cut for {}?",
            "Tell me the discount of {}.",
            "How many percent off does {} have?",
        ),
    ),
    Intent(
        "parcels",
        "read_orders",
        "state",
        "S",
        (
            "How many parcels are on their way to {}?",
            "Show me what is being delivered to {}.",
            "How many packages has {} not received yet?",
            "Which shipments to {} are on the road?",
            "What have we shipped to {}?",
            "Which orders of {} are in transit?",
            "How many shipments to {} are under way?",
            "Is anything on its way to {}?",
        ),
    ),
    Intent(
        "returns",
        "read_orders",
        "state",
        "R",
        (
            "How many orders did {} send back?",
            "Show me what {} sent back.",
            "Did {} return anything?",
            "How many parcels did we get back from {}?",
            "What came back from {}?",
            "Which returns are there from {}?",
            "How many items has {} returned?",
            "Tell me the returns of {}.",
        ),
    ),
)


class Desk:
    """Accounts on SQLite and the suite `desk`: known, moved and new customers are held out apart."""

    name = "desk"

    def __init__(self, seed: int, *, n_customers: int = 16, n_new: int = 8) -> None:
        draw = random.Random(f"desk-{seed}")
        names = [f"{first} {last}" for first in _FIRST for last in _LAST]
        draw.shuffle(names)
        numbers = draw.sample(range(1000, 10000), 3 * (n_customers + n_new))
        self.known = names[:n_customers]
        """Customers of the training tasks."""
        self.moved = self.known[: n_customers // 2]
        """Those of them who get another account after training."""
        self.new = names[n_customers : n_customers + n_new]
        """Customers who come after training."""
        self.before = {name: f"K{numbers.pop()}" for name in self.known}
        self.after = self.before | {name: f"K{numbers.pop()}" for name in (*self.moved, *self.new)}
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE accounts (account TEXT, tool TEXT, code TEXT, value INT)")
        accounts = sorted({*self.before.values(), *self.after.values()})
        rows = [
            (account, intent.tool, intent.code, draw.randrange(10_000))
            for account in accounts
            for intent in INTENTS
        ]
        self._database.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?)", rows)
        self._tasks = self._make_tasks(draw)

    def _make_tasks(self, draw: random.Random) -> dict[str, list[Task]]:
        tasks: dict[str, list[Task]] = {"train": []}
        for place, name in enumerate(self.known):
            for number, intent in enumerate(INTENTS):
                if (place + number) % 6 != 5:  # five of six: the sixth is asked for in a held-out task
                    tasks["train"].append(
                        self._task("train", name, intent, draw.choice(intent.wordings[:-2]))
                    )
        steady = [name for name in self.known if name not in self.moved]
        for split, names in (("known", steady), ("moved", self.moved), ("new", self.new)):
            pairs = [(name, intent) for name in names for intent in INTENTS]
            draw.shuffle(pairs)
            tasks[f"holdout-{split}"] = [
                self._task(f"holdout-{split}", name, intent, draw.choice(intent.wordings[-2:]))
                for name, intent in pairs
            ]
        return tasks

    def _task(self, split: str, name: str, intent: Intent, wording: str) -> Task:
        return Task(
            id=f"{split}-{name}-{intent.name}".replace(" ", "-"), suite=self.name, split=split,
            prompt=wording.format(name), extras={"name": name, "intent": intent.name},
        )  # fmt: skip

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {split: len(tasks) for split, tasks in self._tasks.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return the first tasks of a split."""
        return self._tasks[split][:n]

    def environment(self, task: Task) -> _OneCall:
        """Offer the tools."""
        return _OneCall(self._tools())

    def _tools(self) -> list[FunctionTool[Any, Any]]:
        @tool
        def read_account(account: str, view: View) -> str:
            """Read a figure of an account."""
            return self._read(account, "read_account", view)

        @tool
        def read_orders(account: str, state: State) -> str:
            """Count the orders of an account."""
            return self._read(account, "read_orders", state)

        return [read_account, read_orders]

    def _read(self, account: str, tool_name: str, code: str) -> str:
        query = "SELECT value FROM accounts WHERE account = ? AND tool = ? AND code = ?"
        row = self._database.execute(query, (account, tool_name, code)).fetchone()
        if row is None:
            raise ValueError(f"account {account} has no such figure")
        return str(row[0])

    def right_call(self, task: Task) -> ToolCall:
        """Return the call that answers a task: of the account as it is when the task is asked."""
        intent = next(each for each in INTENTS if each.name == task.extras["intent"])
        accounts = self.before if task.split == "train" else self.after
        account = accounts[task.extras["name"]]
        return ToolCall(name=intent.tool, arguments={"account": account, intent.argument: intent.code})

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Compare what the tools told with what is true."""
        task = trajectory.task
        right = self.right_call(task)
        true = self._read(right.arguments["account"], right.name, [*right.arguments.values()][1])
        told = [result.content for step in trajectory.steps for result in step.results if result.ok]
        calls = [call for step in trajectory.steps for call in step.accepted_calls]
        parts = {
            "procedure": float(bool(calls) and _shape(calls[-1]) == _shape(right)),
            "fact": float(bool(calls) and calls[-1].arguments.get("account") == right.arguments["account"]),
        }
        done = told[-1:] == [true] and min(parts.values()) == 1.0
        expected = () if task.is_held_out else (right,)
        return Outcome(success=done, reward=float(done), parts=parts, expected=expected, grader=self.name)

    def baselines(self, train: Sequence[Task], kit: Any) -> Sequence[Any]:
        """Return nothing: the arms are compared with each other."""
        return ()


def _shape(call: ToolCall) -> tuple[str, tuple[tuple[str, Any], ...]]:
    return call.name, tuple((key, value) for key, value in call.arguments.items() if key != "account")


class _OneCall:
    """The tools; the first call ends the task."""

    def __init__(self, tools: Sequence[FunctionTool[Any, Any]]) -> None:
        self._box = ToolBox(tools)
        self.tools = self._box.tools

    def call(self, call: ToolCall) -> ToolResult:
        return self._box.call(call).model_copy(update={"ends_task": True})

    def close(self) -> None:
        self._box.close()
