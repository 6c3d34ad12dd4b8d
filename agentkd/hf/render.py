"""Render conversations to token ids, and training rows by incremental prefix rendering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentkd.errors import DataError, ModelError
from agentkd.schema import Message, Rendered, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["as_text", "call_text", "end_ids", "render", "render_example"]


def call_text(call: ToolCall) -> str:
    """Return the one JSON text of a call, the same in training targets and in the decoding grammar."""
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)


def as_text(message: Message) -> str:
    """Return a message as plain text, for templates that know neither tool calls nor tool messages.

    A call is its JSON on a line of its own; the result of a tool begins with `Tool result:`.
    """
    if message.role == "tool":
        return f"Tool result: {message.content}"
    if not message.tool_calls:
        return message.content
    calls = "\n".join(call_text(call) for call in message.tool_calls)
    if not message.content or _says_the_same(message.content, message.tool_calls):
        return message.content or calls
    return f"{message.content}\n{calls}"


def _says_the_same(content: str, calls: Sequence[ToolCall]) -> bool:
    # A constrained reply carries its JSON as text too: keep what the model wrote, once.
    try:
        said = [json.loads(line) for line in content.splitlines()]
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
        raise DataError("the chat template does not end the assistant's turn with a stop token")
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


def _templated(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], more: bool) -> str:
    if not tokenizer.chat_template:
        raise ModelError(
            "this model has no chat template: it is a base model for plain completion",
            hint="take an instruction-tuned model, or put a chat_template.jinja into its folder",
        )
    turns = _turns(tokenizer, messages)
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=more)
    except Exception as error:  # jinja errors, raised by the template itself
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise ModelError(f"the chat template refuses this conversation: {error}") from error
        first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        turns = [first, *turns[2:]]  # templates without a system role
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=more)
    return str(text)


def _turns(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[dict[str, str]]:
    specials = [token for token in tokenizer.get_added_vocab() if len(token) > 1]
    turns: list[dict[str, str]] = []
    for message in messages:
        text = as_text(message)
        for special in specials:
            if special in text:
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
