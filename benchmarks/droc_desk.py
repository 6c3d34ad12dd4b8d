"""The world of the DROC stream: a desk on SQLite with real tools, and two people who want things their way.

Nobody tells the agent what these people prefer: it shows only where they correct a call. What the requests
leave open, the tools' schemas leave open too, so that the first choice of a schema is a fair guess.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentkd.schema import ToolCall
from agentkd.tools import FunctionTool, tool

__all__ = [
    "PEOPLE",
    "Desk",
    "Pools",
    "Request",
    "Wanted",
    "Wording",
    "request_of",
    "requests_of",
    "tools_of",
    "wordings",
]

Seat = Literal["middle", "aisle", "window"]
Room = Literal["any", "quiet", "high"]
Unit = Literal["kelvin", "celsius", "fahrenheit"]
Currency = Literal["USD", "CHF", "EUR"]
Sort = Literal["name", "newest", "largest"]
Language = Literal["en", "de", "fr"]
Carrier = Literal["air", "rail", "road"]
Minutes = Literal[60, 30, 45]


class Desk:
    """A database that keeps what the tools did."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE deeds (person TEXT, tool TEXT, arguments TEXT)")
        self._database.execute("CREATE TABLE orders (id INT, customer TEXT, total INT, day INT, state TEXT)")
        rows = [(n, f"customer {n % 7}", 37 * n % 211, n % 28, "open") for n in range(1000, 1400)]
        self._database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", rows)

    def do(self, person: str, tool_name: str, **arguments: Any) -> str:
        """Write a deed down and say so."""
        call = ToolCall(name=tool_name, arguments=arguments).model_dump_json(exclude={"id"})
        self._database.execute("INSERT INTO deeds VALUES (?, ?, ?)", (person, tool_name, call))
        return "done"

    def set_state(self, order: int, state: str) -> str:
        """Change an order's state; raises ValueError for an unknown one."""
        changed = self._database.execute("UPDATE orders SET state = ? WHERE id = ?", (state, order)).rowcount
        if not changed:
            raise ValueError(f"there is no order {order}")
        return f"order {order} is {state}"

    def orders(self, month: str, sort: str) -> str:
        """List the largest, newest or first orders."""
        column = {"name": "customer", "newest": "day DESC", "largest": "total DESC"}[sort]
        rows = self._database.execute(f"SELECT id, total FROM orders ORDER BY {column} LIMIT 3").fetchall()
        return f"{month}: {rows}"

    def deeds(self) -> list[str]:
        """Return everything that was done, in order."""
        return [row[0] for row in self._database.execute("SELECT arguments FROM deeds ORDER BY rowid")]


def tools_of(desk: Desk, person: str) -> list[FunctionTool]:
    """Return the tools of the desk for one person."""

    def book_flight(city: str, day: str, seat: Seat) -> str:
        """Book a flight."""
        return desk.do(person, "book_flight", city=city, day=day, seat=seat)

    def book_hotel(city: str, nights: int, room: Room) -> str:
        """Book a hotel room."""
        return desk.do(person, "book_hotel", city=city, nights=nights, room=room)

    def tell_weather(city: str, unit: Unit) -> str:
        """Tell the weather of a city."""
        return desk.do(person, "tell_weather", city=city, unit=unit)

    def change_money(amount: int, currency: Currency) -> str:
        """Change an amount of money for a trip."""
        return desk.do(person, "change_money", amount=amount, currency=currency)

    def list_orders(month: str, sort: Sort) -> str:
        """List the orders of a month."""
        desk.do(person, "list_orders", month=month, sort=sort)
        return desk.orders(month, sort)

    def send_invoice(customer: str, language: Language) -> str:
        """Send the open invoice to a customer."""
        return desk.do(person, "send_invoice", customer=customer, language=language)

    def ship_parcel(order: int, carrier: Carrier) -> str:
        """Ship the parcel of an order."""
        desk.do(person, "ship_parcel", order=order, carrier=carrier)
        return desk.set_state(order, f"sent by {carrier}")

    def plan_meeting(customer: str, day: str, minutes: Minutes) -> str:
        """Plan a meeting with a customer."""
        return desk.do(person, "plan_meeting", customer=customer, day=day, minutes=minutes)

    def delete_order(order: int) -> str:
        """Delete an order that is no longer needed."""
        desk.do(person, "delete_order", order=order)
        return desk.set_state(order, "deleted")

    def archive_order(order: int) -> str:
        """Archive an order."""
        desk.do(person, "archive_order", order=order)
        return desk.set_state(order, "archived")

    def pay_supplier(supplier: str, amount: int) -> str:
        """Pay a supplier's bill."""
        return desk.do(person, "pay_supplier", supplier=supplier, amount=amount)

    def hold_payment(supplier: str, amount: int) -> str:
        """Put a supplier's bill on hold."""
        return desk.do(person, "hold_payment", supplier=supplier, amount=amount)

    functions: Sequence[Callable[..., Any]] = (
        book_flight, book_hotel, tell_weather, change_money, list_orders, send_invoice, ship_parcel,
        plan_meeting, delete_order, archive_order, pay_supplier, hold_payment,
    )  # fmt: skip
    return [tool(function, has_side_effects=True) for function in functions]


@dataclass(frozen=True)
class Wanted:
    """What a person wants of one kind of request."""

    tool: str
    """Tool that the request asks for."""
    parameter: str = ""
    """Parameter that the request leaves open; empty where the person minds the tool itself."""
    value: Any = None
    """What the person wants there."""
    instead: str = ""
    """Tool that the person wants in its place; empty with no `parameter` where the call is refused."""


PEOPLE: Mapping[str, tuple[Wanted, ...]] = {
    "ann": (
        Wanted("book_flight", "seat", "aisle"),
        Wanted("book_hotel", "room", "quiet"),
        Wanted("tell_weather", "unit", "celsius"),
        Wanted("change_money", "currency", "CHF"),
        Wanted("list_orders", "sort", "newest"),
        Wanted("send_invoice", "language", "de"),
        Wanted("ship_parcel", "carrier", "rail"),
        Wanted("plan_meeting", "minutes", 30),
        Wanted("delete_order", instead="archive_order"),
        Wanted("pay_supplier"),
    ),
    "bob": (
        Wanted("book_flight", "seat", "window"),
        Wanted("book_hotel", "room", "high"),
        Wanted("tell_weather", "unit", "fahrenheit"),
        Wanted("change_money", "currency", "EUR"),
        Wanted("list_orders", "sort", "largest"),
        Wanted("send_invoice", "language", "fr"),
        Wanted("ship_parcel", "carrier", "road"),
        Wanted("plan_meeting", "minutes", 45),
        Wanted("delete_order"),
        Wanted("pay_supplier", instead="hold_payment"),
    ),
}
"""Two people whose wishes contradict each other: what one teaches must not reach the other."""


@dataclass(frozen=True)
class Wording:
    """One way to ask for a tool; slots are parameters."""

    tool: str
    text: str
    is_new: bool
    """Whether it comes up in the last round only."""


_SEEN: Mapping[str, tuple[str, ...]] = {
    "book_flight": ("Book a flight to {city} on {day}.", "I need to fly to {city} on {day}.",
                    "Book me a {seat} seat to {city} on {day}."),
    "book_hotel": ("Book a hotel in {city} for {nights} nights.", "I stay {nights} nights in {city}.",
                   "Reserve {nights} nights in {city}."),
    "tell_weather": ("How is the weather in {city}?", "Tell the weather in {city}.", "Weather for {city}?"),
    "change_money": ("Change {amount} for my trip.", "I need travel money, {amount} please.",
                     "Get me travel cash for {amount}."),
    "list_orders": ("List the orders of {month}.", "Show {month}'s orders.", "What orders came in {month}?"),
    "send_invoice": ("Send {customer} the invoice.", "Bill {customer} please.", "{customer} needs a bill."),
    "ship_parcel": ("Ship order {order}.", "Send off the parcel of order {order}.",
                    "Ship the parcel of order {order} by {carrier}."),
    "plan_meeting": ("Plan a meeting with {customer} on {day}.", "I want to meet {customer} on {day}.",
                     "Put a meeting with {customer} on {day} into my calendar."),
    "delete_order": ("Order {order} is obsolete.", "Delete order {order}.", "Get rid of order {order}."),
    "pay_supplier": ("Pay {supplier} the bill of {amount}.", "{supplier} wants {amount}, settle it.",
                     "Settle the bill of {supplier}, {amount}."),
}  # fmt: skip
_NEW: Mapping[str, tuple[str, ...]] = {
    "book_flight": ("Get me on a plane to {city} for {day}.", "{day} I must be in {city}, find a flight."),
    "book_hotel": ("Find me a bed in {city}, {nights} nights.", "Hotel in {city}, {nights} nights."),
    "tell_weather": ("Will I need an umbrella in {city}?", "What is the forecast for {city}?"),
    "change_money": ("Convert {amount} into cash for the journey.", "I travel soon, exchange {amount}."),
    "list_orders": ("What was ordered in {month}?", "Give me an overview of {month}'s orders."),
    "send_invoice": ("Please invoice {customer}.", "Mail {customer} what they owe us."),
    "ship_parcel": ("Order {order} can go out.", "Please dispatch order {order}."),
    "plan_meeting": ("Find a slot for {customer} on {day}.", "Set up a call with {customer} for {day}."),
    "delete_order": ("Order {order} can go away for good.", "Please drop order {order}."),
    "pay_supplier": ("Transfer {amount} to {supplier}.", "The bill of {supplier} is due: {amount}."),
}  # fmt: skip


def wordings() -> list[Wording]:
    """Return every way in which a request may come."""
    seen = [Wording(tool, text, False) for tool, texts in _SEEN.items() for text in texts]
    return seen + [Wording(tool, text, True) for tool, texts in _NEW.items() for text in texts]


@dataclass(frozen=True)
class Request:
    """One request of a person, and the call that they want; None where they want no call."""

    id: str
    text: str
    wanted: ToolCall | None


Pools = Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]]
"""Values by slot: those of seen requests, those of new ones."""

_POOLS: Pools = {
    "city": (("Oslo", "Lima", "Rome", "Cairo", "Quito", "Delhi"), ("Porto", "Accra", "Kyoto", "Sofia")),
    "day": (("Monday", "Tuesday", "3 May", "9 June"), ("Friday", "Sunday", "21 August", "2 October")),
    "month": (("January", "March", "May"), ("July", "October", "December")),
    "customer": (("Ms Ortega", "Mr Lindt", "Acme", "Globex"), ("Ms Novak", "Initech", "Mr Abe", "Umbra")),
    "supplier": (("Hooli", "Stark Steel", "Wayne Wood"), ("Tyrell Tools", "Soylent", "Vandelay")),
    "nights": ((2, 3, 4), (5, 6, 7)),
}  # fmt: skip


def requests_of(person: str, number: int, seed: int, n_each: int) -> list[Request]:
    """Return the requests of a person in a round, shuffled.

    Rounds 0 and 1 use the same wordings with other values; round 2 has wordings and values that are new.
    """
    draw = random.Random(f"{seed} {person} {number}")
    is_new = number >= 2
    made = []
    for wanted in PEOPLE[person]:
        for each in range(n_each):
            request = request_of(person, wanted, draw, is_new=is_new, which=each)
            made.append(replace(request, id=f"{person}-{number}-{wanted.tool}-{each}"))
    draw.shuffle(made)
    return made


def request_of(
    person: str,
    wanted: Wanted,
    draw: random.Random,
    *,
    is_new: bool,
    which: int | None = None,
    pools: Pools = _POOLS,
) -> Request:
    """Return a request for what a person wants, in the wording number `which`, or in one that is drawn."""
    texts = (_NEW if is_new else _SEEN)[wanted.tool]
    text = draw.choice(texts) if which is None else texts[which % len(texts)]
    values = {name: _value(name, is_new, draw, pools) for name in _slots(text)}
    return Request(f"{person}-{wanted.tool}", text.format(**values), _wanted(wanted, values))


def _wanted(wanted: Wanted, values: Mapping[str, Any]) -> ToolCall | None:
    if not wanted.parameter and not wanted.instead:
        return None
    preferred = {wanted.parameter: wanted.value} if wanted.parameter else {}
    return ToolCall(name=wanted.instead or wanted.tool, arguments={**preferred, **values})


def _value(name: str, is_new: bool, draw: random.Random, pools: Pools) -> Any:
    if name in pools:
        return draw.choice(pools[name][is_new])
    if name == "seat":
        return draw.choice(("middle", "aisle", "window"))
    if name == "carrier":
        return draw.choice(("air", "rail", "road"))
    start = 1200 if is_new else 1000
    return draw.randrange(start, start + 200)


def _slots(text: str) -> list[str]:
    return [part.partition("}")[0] for part in text.split("{")[1:]]
