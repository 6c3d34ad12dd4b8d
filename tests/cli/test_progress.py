"""Progress: sparse lines where nobody watches, live bars on a terminal, and a promise kept by both."""

from __future__ import annotations

import io
import threading

import pytest

from agentkd.cli.cost import spent, spent_by
from agentkd.cli.progress import RichProgress, clock_text
from agentkd.protocols import Progress
from agentkd.schema import Usage


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    stream, clock = io.StringIO(), Seconds()
    with RichProgress(stream, clock=clock).bar("run", 40, "tasks") as bar:
        for _ in range(40):
            clock.now += 1.0
            bar.advance(note="3 succeeded")
    assert stream.getvalue().splitlines() == [
        "run: 10/40 tasks, 25%, after 10 s, eta 30 s, 3 succeeded",
        "run: 20/40 tasks, 50%, after 20 s, eta 20 s, 3 succeeded",
        "run: 30/40 tasks, 75%, after 30 s, eta 10 s, 3 succeeded",
        "run: 40/40 tasks, 100%, after 40 s, 3 succeeded",
        "run: 40/40 tasks in 40 s",
    ]


def test_short_work_leaves_no_trace_in_a_log() -> None:
    stream, clock = io.StringIO(), Seconds()
    with RichProgress(stream, clock=clock).bar("quick", 2) as bar:
        clock.now += 0.5
        bar.advance(2)
    assert stream.getvalue() == ""


def test_an_unknown_total_has_neither_share_nor_eta() -> None:
    stream, clock = io.StringIO(), Seconds()
    with RichProgress(stream, clock=clock).bar("fetch", None, "MB") as bar:
        clock.now += 65
        bar.advance(12.5)
    assert stream.getvalue().splitlines() == [
        "fetch: 12.5 MB, after 1 min 05 s",
        "fetch: 12.5 MB in 1 min 05 s",
    ]


def test_bars_of_several_threads_share_one_display() -> None:
    stream = Terminal()
    progress = RichProgress(stream)

    def work(name: str) -> None:
        with progress.bar(name, 3, "rows") as bar:
            for _ in range(3):
                bar.advance(note="ok")
            progress.say(f"{name} said [something]")

    threads = [threading.Thread(target=work, args=(f"part-{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = stream.getvalue()
    for n in range(3):
        assert f"part-{n} said [something]" in text


def test_a_bar_closes_when_the_work_fails() -> None:
    progress = RichProgress(Terminal())
    with pytest.raises(ValueError, match="broken"), progress.bar("work", 3):
        raise ValueError("broken")
    with progress.bar("more", 1) as bar:
        bar.advance()


def test_it_keeps_the_promise_of_progress() -> None:
    assert isinstance(RichProgress(io.StringIO()), Progress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_a_duration_reads_like_one(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_a_cost_names_tokens_seconds_and_money() -> None:
    assert spent(12345, 678, 12.4, 0.0412) == "12,345 tokens read, 678 written, 12 s, $0.0412"
    assert spent(1, 1, 1, 0.0).endswith("free")
    assert spent_by(Usage(prompt_tokens=5), 3) == "5 tokens read, 0 written, 3 s, price unknown"
    assert spent_by({"prompt_tokens": 5, "usd": 0.5}, 3) == "5 tokens read, 0 written, 3 s, $0.5000"
