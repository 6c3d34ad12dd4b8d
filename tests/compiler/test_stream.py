"""Trajectories are read a few at a time, and a dataset is the same wherever they come from."""

from __future__ import annotations

from agentkd.compiler import LedgerTraces, ListedTraces, Trace
from agentkd.compiler.source import by_task


class Watched:
    """Traces that say how many were asked for at a time."""

    def __init__(self, traces) -> None:
        self.traces = traces
        self.sizes: list[int] = []

    def keys(self):
        return self.traces.keys()

    def load(self, ids):
        self.sizes.append(len(ids))
        return self.traces.load(ids)


def test_the_ledger_gives_the_dataset_that_a_list_gives(make):
    runs = [make.run(f"t{i:02d}") for i in range(12)]
    wrong = make.run("wrong", success=False, calls=(make.call("find"),))
    corrections = [make.correction(wrong, make.call("book"))]
    ledger = make.ledger(*runs, wrong, corrections=corrections)
    listed = make.compile(make.inputs([*runs, wrong], corrections))
    streamed = make.compile(make.inputs([], traces=LedgerTraces(ledger, suite="shop", split="train")))
    assert streamed == listed
    assert (listed.n_train, listed.kinds) == (13, {"correction": 1, "trajectory": 12})
    ledger.close()


def test_only_finished_runs_of_the_wanted_split_are_read(make):
    runs = [make.run("a"), make.run("b", split="holdout"), make.run("c", split="dev")]
    ledger = make.ledger(*runs)
    ledger.trajectories.begin(make.run("d").model_copy(update={"steps": ()}))
    learnt, dev = LedgerTraces(ledger).keys(), LedgerTraces(ledger, split="dev").keys()
    assert [task_id for _, task_id, _ in learnt] == ["a", "c"]
    assert [task_id for _, task_id, _ in dev] == ["c"]
    assert LedgerTraces(ledger, suite="other").keys() == []
    ledger.close()


def test_a_few_tasks_are_in_memory_at_a_time_and_a_task_is_never_cut(make):
    runs = [make.run(f"t{i:03d}", id=f"t{i:03d}-{n}", attempt=n) for i in range(150) for n in range(3)]
    traces = Watched(ListedTraces(runs))
    tasks = list(by_task(traces, traces.keys()))
    assert [len(task) for task in tasks] == [3] * 150
    assert max(traces.sizes) < 140
    assert len(traces.sizes) > 2
    assert isinstance(tasks[0][0], Trace)


def test_rows_are_written_before_the_last_trajectory_is_read(make):
    """What a selector sees first comes from the first tasks alone: rows are not gathered."""
    runs = [make.run(f"t{i:03d}") for i in range(600)]
    traces = Watched(ListedTraces(runs))
    read_when_seen: list[int] = []

    class Looker:
        name = "looker"

        def score(self, examples):
            read_when_seen.append(sum(traces.sizes) - len(runs))  # the first pass reads them all
            return [1.0] * len(examples)

    make.compile(make.inputs([], traces=traces), selectors=[Looker()])
    assert read_when_seen[0] < 400
    assert read_when_seen[-1] == 600
