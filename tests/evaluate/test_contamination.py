"""Tasks that stand in the training rows are found, disguised or not; like ones are not taken for copies."""

from __future__ import annotations

import random

import pytest

from agentkd.evaluate import find_leaks

NAMES = ("Amara Diallo", "Jonas Weber", "Mei Lin", "Carlos Ortega", "Priya Nair", "Olga Petrova", "Sam Reed")
PLACES = ("Lisbon", "Nairobi", "Osaka", "Montreal", "Valparaiso", "Gdansk", "Adelaide", "Bergen")


def request(generator: random.Random) -> str:
    """Make one request; all of them share their wording, as those of a real suite do."""
    day, seats = generator.randint(1, 28), generator.randint(2, 90)
    street, number = (
        generator.choice(("Elm", "Harbour", "Mill", "Station", "Orchard")),
        generator.randint(1, 400),
    )
    return (
        f"Please book a table for {seats} people on the {day}th near {number} {street} Street in "
        f"{generator.choice(PLACES)} under the name {generator.choice(NAMES)}, close to the window."
    )


@pytest.fixture(scope="module")
def requests() -> list[str]:
    generator = random.Random(5)
    return [request(generator) for _ in range(160)]


@pytest.fixture(scope="module")
def tasks(requests) -> dict[str, str]:
    return {f"task-{n}": text for n, text in enumerate(requests[:60])}


def disguised(text: str, generator: random.Random) -> str:
    words = [word for word in text.split() if generator.random() > 0.03]
    words = [word + " well" if generator.random() < 0.08 else word for word in words]
    cut = generator.randrange(len(words))
    letters = list("Hi there! " + " ".join(words[cut:] + words[:cut]).upper() + " - thanks!")
    for _ in range(2):
        at = generator.randrange(len(letters) - 1)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def test_every_copy_is_found_whatever_its_case_and_punctuation(tasks):
    rows = [
        (f"row-{n}", ["what came before", text.upper().replace(",", " ;")])
        for n, text in enumerate(tasks.values())
    ]
    found = find_leaks(tasks, lambda: rows)
    assert found.tasks == set(tasks)
    assert found.n_exact == len(tasks)
    assert {leak.task_id: leak.row_id for leak in found.leaks}["task-7"] == "row-7"


def test_a_copy_among_other_words_is_a_copy_and_a_short_one_may_be_chance(tasks):
    wrapped = [
        (f"row-{n}", [f"System note. User: {text} Answer now!"]) for n, text in enumerate(tasks.values())
    ]
    found = find_leaks({**tasks, "short": "answer now"}, lambda: wrapped)
    assert found.n_exact == len(tasks)
    assert "short" not in {leak.task_id for leak in found.leaks if leak.is_exact}


def test_nearly_every_disguised_copy_is_found(tasks):
    generator = random.Random(0)
    rows = [(id_, [disguised(text, generator)]) for id_, text in tasks.items()]
    found = find_leaks(tasks, lambda: rows)
    assert len(found.tasks) >= 0.95 * len(tasks)
    assert found.n_exact == 0


def test_other_requests_of_the_same_wording_are_no_leak(requests, tasks):
    found = find_leaks(tasks, lambda: [(f"row-{n}", [text]) for n, text in enumerate(requests[60:])])
    assert len(found.tasks) <= 0.05 * len(tasks)
    assert (found.n_tasks, found.n_rows) == (60, 100)


def test_a_task_of_one_word_is_no_reason_for_alarm():
    assert find_leaks({"a": "Hello"}, lambda: [("row", ["Say hello to everyone"])]).leaks == ()


def test_tasks_of_a_few_letters_are_counted_and_not_looked_for():
    found = find_leaks({"a": "2 + 2?", "b": "How many legs has a spider?"}, lambda: [("row", ["2 + 2?"])])
    assert (found.n_tasks, found.n_short, found.leaks) == (2, 1, ())


def test_tasks_that_differ_in_one_word_from_what_was_learnt_are_no_copies():
    def ask(cities):
        return {
            f"{what}-{city}": f"What is the {what} of {city}?"
            for what in ("weather", "mayor")
            for city in cities
        }

    learnt, asked = ask(("Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi")), ask(("Tunis", "Accra", "Hanoi"))
    assert find_leaks(asked, lambda: [(id_, [text]) for id_, text in learnt.items()]).leaks == ()
    again = {**learnt, "again": asked["mayor-Accra"]}
    assert find_leaks(asked, lambda: [(i, [text]) for i, text in again.items()]).tasks == {"mayor-Accra"}
