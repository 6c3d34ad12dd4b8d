"""Render conversations to token ids, and training rows by incremental prefix rendering."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import DataError, ModelError
from agentkd.schema import Message, Rendered, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "as_text",
    "call_text",
    "chat_text",
    "chat_turns",
    "check_template",
    "end_ids",
    "render",
    "render_example",
    "special_tokens",
]

_JSON = json.JSONEncoder(ensure_ascii=False)


def call_text(call: ToolCall) -> str:
    """Return the one JSON text of a call, the same in training targets and in the decoding grammar."""
    return _JSON.encode({"name": call.name, "arguments": call.arguments})


def as_text(message: Message) -> str:
    """Return a message as plain text, for templates that know neither tool calls nor tool messages.

    A call is its JSON on a line of its own; the result of a tool begins with `Tool result:`.
    """
    if message.role == "tool":
        return f"Tool result: {message.content}"
    if not message.tool_calls:
        return message.content
    calls = "\n".join(call_text(call) for call in message.tool_calls)
    if not message.content or message.content == calls or _says_the_same(message.content, message.tool_calls):
        return message.content or calls
    return f"{message.content}\n{calls}"


def _says_the_same(content: str, calls: Sequence[ToolCall]) -> bool:
    # A constrained reply carries its JSON as text too: keep what the model wrote, once.
    try:
        said = [json.loads(line) for line in content.split("\n")]
    except ValueError:
        return False
    return said == [{"name": call.name, "arguments": call.arguments} for call in calls]


def render(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], add_generation_prompt: bool = True
) -> list[int]:
    """Return the token ids of a conversation under the tokenizer's chat template, `[time]`.

    Text that looks like a special token is broken up first, so that no message can end its own turn.
    """
    return _encode(tokenizer, _templated(tokenizer, messages, add_generation_prompt))


def render_example(
    tokenizer: PreTrainedTokenizerFast, prompt: Sequence[Message], target: Message
) -> Rendered:
    """Return prompt and target as one row whose loss falls on the target and its end-of-turn token.

    The template is rendered with and without the target: the first text must begin with the second, and
    what is left is the completion, tokenised on its own, just as a model continues the prompt. Raises
    DataError where the template rewrites the past, or where the trained tokens do not decode to exactly the
    target's text.
    """
    head = _templated(tokenizer, prompt, True)
    whole = _templated(tokenizer, [*prompt, target], False)
    if not whole.startswith(head):
        raise DataError(
            "the chat template does not continue the prompt when the target is added",
            hint="it rewrites earlier turns or has no generation prompt; use another template",
        )
    completion = _encode(tokenizer, whole[len(head) :])
    ends = end_ids(tokenizer)
    stop = next((i for i, token in enumerate(completion) if token in ends), None)
    if stop is None:
        raise DataError(
            "the chat template does not end the assistant's turn with a stop token",
            hint="a student would never stop: take the model's own chat_template.jinja",
        )
    completion = completion[: stop + 1]
    said, wanted = _decode(tokenizer, completion[:-1]), as_text(target)
    if said != wanted or not wanted:
        raise DataError(
            f"the trained tokens read {said[:80]!r}, but the target is {wanted[:80]!r}",
            hint="an empty target, a special token in the text, or a template that edits what is said",
        )
    ids = _encode(tokenizer, head)
    weights = (0.0,) * len(ids) + (1.0,) * len(completion)
    return Rendered(ids=(*ids, *completion), weights=weights)


def end_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Return the token ids that end a turn: the tokenizer's own and the well-known ones it has."""
    known = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>")
    vocabulary = tokenizer.get_added_vocab()
    found = {vocabulary[name] for name in known if name in vocabulary}
    return frozenset(found if tokenizer.eos_token_id is None else {*found, int(tokenizer.eos_token_id)})


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Return the texts that must not reach a model from within a message, longest first.

    Those are the control tokens, and what the chat template itself writes as one token. Other added tokens
    are plain text that happens to be one token, such as the line breaks and HTML tags of Gemma.
    """
    template, ends = str(tokenizer.chat_template or ""), end_ids(tokenizer)
    found = [
        token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or number in ends or token.content in template)
    ]
    return tuple(sorted((text for text in found if len(text) > 1), key=lambda text: (-len(text), text)))


def _templated(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], more: bool) -> str:
    return chat_text(tokenizer, chat_turns(messages, special_tokens(tokenizer)), more)


def chat_text(tokenizer: PreTrainedTokenizerFast, turns: Sequence[dict[str, str]], more: bool) -> str:
    """Return turns under the chat template, with the head of the next reply if `more`; raises ModelError.

    A template without a system role gets the system's text before the first user's.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "this model has no chat template: it is a base model for plain completion",
            hint="take an instruction-tuned model, or put a chat_template.jinja into its folder",
        )
    check_template(str(tokenizer.chat_template))
    try:
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=more)
    except Exception as error:  # jinja errors, raised by the template itself
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise _refused(error) from error
        first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        try:
            text = tokenizer.apply_chat_template(
                [first, *turns[2:]], tokenize=False, add_generation_prompt=more
            )
        except Exception as again:
            raise _refused(again) from again
    return str(text)


def _refused(error: Exception) -> ModelError:
    return ModelError(
        f"the chat template refuses this conversation: {type(error).__name__}: {error}",
        hint="take the model's own chat_template.jinja, or leave such conversations out",
    )


@functools.lru_cache(maxsize=64)
def check_template(template: str) -> None:
    """Refuse a template that takes too long or grows without bound; asked once per process and template.

    It is tried on short conversations in a process with little time and memory. Raises ModelError.
    """
    probe = Path(__file__).with_name("template_probe.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(probe)], input=template, text=True, capture_output=True, timeout=120
        ).returncode
    except subprocess.TimeoutExpired:
        done = -1
    if done:
        raise ModelError(
            "the chat template takes seconds or gigabytes for a conversation of a few words",
            hint="take the model's own chat_template.jinja; this one would never end",
        )


def chat_turns(messages: Sequence[Message], specials: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return messages as the turns that a chat template gets: roles that every template knows, alternating.

    Texts in `specials` are broken up, so that no message can end its own turn.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        text = as_text(message)
        while found := [special for special in specials if special in text]:  # breaking one may make another
            for special in found:
                text = text.replace(special, f"{special[0]} {special[1:]}")
        role = "user" if message.role == "tool" else message.role
        if turns and turns[-1]["role"] == role == "user":  # many templates insist on alternation
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return turns


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: Any = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return list(ids)


def _decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
