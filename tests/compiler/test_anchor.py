"""Anchor rows hold what the base said, and the base is their teacher on the same prompt."""

from __future__ import annotations

from agentkd import hf
from agentkd.compiler import anchor_requests
from agentkd.compiler.anchor import anchor_rows
from agentkd.compiler.render import RowRenderer


def test_requests_are_all_different_and_none_is_measured_on() -> None:
    requests = anchor_requests(64)
    assert len(set(requests)) == len(requests) == 64
    assert anchor_requests(3) == requests[:3]
    from agentkd.hf.anchor import REPLIES

    assert not set(requests) & {request for request, _ in REPLIES}


def test_the_base_teaches_its_own_answer_on_the_same_prompt(tmp_path) -> None:
    renderer = RowRenderer(hf.load_tokenizer(hf.tiny_model(tmp_path)), 512)
    answers = [("What is rain?", "Water that falls."), ("And snow?", ""), ("And hail?", "Ice that falls.")]
    rows = list(anchor_rows(answers, renderer, need_teacher=True, base_id="b"))
    assert rows[0].target.content == "Water that falls."
    assert {row.kind for row in rows} == {"anchor"}
    assert all(row.teacher == row.student and row.teacher_view == row.student_view for row in rows)
    bare = list(anchor_rows(answers, renderer, need_teacher=False, base_id="b"))
    assert all(row.teacher is None and row.teacher_view == () for row in bare)
