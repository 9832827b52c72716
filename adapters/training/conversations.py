"""Conversations as rows hold them: read into messages, or refused by name. Pure.

Text stands for one message. A list holds chat messages, `{"role", "content"}`, or ShareGPT's
`{"from", "value"}`. What a model could not be trained on here (tool calls, images, other roles,
keys whose content would be lost) is refused with a `ValueError` that names it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant")
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
             "system": "system"}  # fmt: skip
_UNREAD = ("system", "history", "tools", "functions", "image", "images", "audio", "audios",
           "video", "videos", "documents", "context", "input", "instruction", "thinking",
           "reasoning")  # fmt: skip
"""Keys of rows that other formats put content into."""


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]
"""Messages in their order."""


def asking(text: str) -> Conversation:
    """The conversation that consists of one message by the user."""
    return (Message("user", text),)


def refuse_unread(row: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a row with content under a key that no stage reads."""
    if "instruction" in row:
        raise ValueError(
            "it is in Alpaca's format (instruction, input, output): write prompt and completion"
        )
    for key in _UNREAD:
        if row.get(key):
            raise ValueError(
                f"its key {key!r} is not read: put its content into the messages, or remove it"
            )


def conversation(value: Any) -> Conversation:
    """The messages in `value`, of which there is at least one.

    Raises `ValueError`, counting messages from 1.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("a text is empty")
        return asking(value)
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{value!r:.40} is neither text nor a list of messages")
    messages = []
    for number, given in enumerate(value, 1):
        try:
            messages.append(_message(given))
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from error
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError("a system message stands only at the beginning")
    return tuple(messages)


def prompt(value: Any) -> Conversation:
    """A conversation that awaits an answer: its last message is the user's."""
    return awaiting(conversation(value))


def awaiting(asked: Conversation) -> Conversation:
    """The same conversation; raises `ValueError` unless its last message is the user's."""
    if asked[-1].role != "user":
        raise ValueError(f"the prompt ends with a message by the {asked[-1].role}, not by the user")
    return asked


def answer(value: Any, asked: Conversation | None = None) -> str:
    """One answer: text, or a list of messages that ends with the assistant's.

    asked: the conversation that it answers, which the list may repeat before the answer.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the answer is empty")
        return value
    messages = conversation(value)
    if messages[-1].role != "assistant":
        raise ValueError(
            f"the answer ends with a message by the {messages[-1].role}, not by the assistant"
        )
    if messages[:-1] and messages[:-1] != asked:
        raise ValueError("the messages before the answer are not the prompt's")
    return messages[-1].content


def answered(value: Any) -> list[tuple[Conversation, str]]:
    """Every answer by the assistant that is to be learnt, each with the conversation before it.

    An answer with `"weight": 0`, or one that nobody asked for, is context only. Raises `ValueError`
    for a conversation that does not end with an answer, or has none to learn.
    """
    messages = conversation(value)
    if messages[-1].role != "assistant":
        raise ValueError(
            f"the messages end with one by the {messages[-1].role}: the answer is missing"
        )
    found = [
        (messages[:place], message.content)
        for place, message in enumerate(messages)
        if message.role == "assistant"
        and place
        and messages[place - 1].role == "user"
        and _weight(value[place])
    ]
    if not found:
        raise ValueError("none of its messages is an answer to learn")
    return found


def _message(given: Any) -> Message:
    if not isinstance(given, Mapping):
        raise ValueError("not an object with role and content")  # noqa: TRY004 - one kind of error
    keys = ("from", "value") if "from" in given else ("role", "content")
    for key, value in given.items():
        if key not in (*keys, "weight") and value not in (None, "", [], {}):
            raise ValueError(f"its key {key!r} is not read; only {keys[0]} and {keys[1]} are")
    role, content = given.get(keys[0]), given.get(keys[1])
    role = _SHAREGPT.get(str(role), role) if keys[0] == "from" else role
    if role not in ROLES:
        raise ValueError(f"its role is {role!r}; only {', '.join(ROLES)} are trained on")
    return Message(str(role), _text(content))


def _text(content: Any) -> str:
    """A message's text, which may be given in parts."""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise ValueError(f"a part of its content is {kind!r:.40}, not text")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"its content is {content!r:.40}, not text")  # noqa: TRY004
    if not content.strip():
        raise ValueError("its content is empty")
    return content


def _weight(given: Mapping[str, Any]) -> bool:
    weight = given.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"a message's weight is {weight!r}; it is 0 or 1")
    return weight != 0
