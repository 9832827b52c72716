"""Conversations as rows hold them: read into messages, or refused by name. Pure.

Text stands for one message. A list holds chat messages, `{"role", "content"}`, or ShareGPT's
`{"from", "value"}`. What a model could not be trained on here (tool calls, images, other roles,
keys whose content would be lost) is refused with a `ValueError` that names it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant")
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
             "system": "system"}  # fmt: skip
METADATA = frozenset(
    (
        "unit", "group", "review", "split", "subset", "fold", "source", "source_id", "dataset",
        "origin", "domain", "task", "task_id", "topic", "category", "subcategory", "tag", "tags",
        "id", "_id", "uid", "uuid", "idx", "index", "row_id", "item_id", "prompt_id", "question_id",
        "message_id", "conversation_id", "review_id", "annotator", "annotator_id", "url", "license",
        "licence", "language", "lang", "date", "timestamp", "created", "created_at", "updated_at",
        "version", "model", "score_chosen", "score_rejected", "__index_level_0__",
    )
)  # fmt: skip
"""Keys that describe a row and hold nothing to learn from. Every other key must be read."""


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]
"""Messages in their order."""


def asking(text: str) -> Conversation:
    """The conversation that consists of one message by the user."""
    return (Message("user", text),)


def has_content(value: Any) -> bool:
    """Whether a key's value holds anything. False and 0 do: they may be judgements."""
    return value not in (None, "", [], {})


def refuse_unread(row: Mapping[str, Any], read: Collection[str], texts: Collection[str]) -> None:
    """Raise `ValueError` for a row with content that its stage does not read.

    read: the keys that the stage reads. texts: every text that it has read from them, which
    another key may repeat.
    """
    for key, value in row.items():
        if key in read or key in METADATA or not has_content(value):
            continue
        within = key == "text" and isinstance(value, str) and any(value in text for text in texts)
        if not (within or _repeats(value, texts)):
            raise ValueError(
                f"its key {key!r} is not read: put its content into the messages, or remove it"
            )


def _repeats(value: Any, texts: Collection[str]) -> bool:
    """Whether all the text in `value`, a text or messages, is among `texts`."""
    if isinstance(value, str):
        return value in texts
    try:
        return all(message.content in texts for message in conversation(value))
    except ValueError:
        return False


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
    refuse_weightless(value)
    if messages[-1].role != "assistant":
        raise ValueError(
            f"the answer ends with a message by the {messages[-1].role}, not by the assistant"
        )
    if messages[:-1] and messages[:-1] != asked:
        raise ValueError("the messages before the answer are not the prompt's")
    return messages[-1].content


def refuse_weightless(value: Any) -> None:
    """Raise `ValueError` if the last message of a list is one not to learn from."""
    if isinstance(value, list) and not _weight(value[-1]):
        raise ValueError("its answer has weight 0, which means not to learn it: remove the row")


def answered(value: Any) -> list[tuple[Conversation, str]]:
    """Every answer by the assistant that is to be learnt, each with the conversation before it.

    An answer with `"weight": 0` is context only, and so is a greeting before the user's first
    message. Raises `ValueError` for a conversation that does not end with an answer, has none to
    learn, or has one to learn directly after another message by the assistant.
    """
    messages = conversation(value)
    if messages[-1].role != "assistant":
        raise ValueError(
            f"the messages end with one by the {messages[-1].role}: the answer is missing"
        )
    first = next((n for n, m in enumerate(messages) if m.role == "user"), len(messages))
    found = []
    for place, message in enumerate(messages):
        if message.role != "assistant" or place < first or not _weight(value[place]):
            continue
        if messages[place - 1].role != "user":
            raise ValueError(
                f"message {place + 1} by the assistant follows another by the assistant: join "
                "them, or give it weight 0"
            )
        found.append((messages[:place], message.content))
    if not found:
        raise ValueError("none of its messages is an answer to learn")
    return found


def _message(given: Any) -> Message:
    if not isinstance(given, Mapping):
        raise ValueError("not an object with role and content")  # noqa: TRY004 - one kind of error
    keys = ("from", "value") if "from" in given else ("role", "content")
    for key, value in given.items():
        if key not in (*keys, "weight") and has_content(value):
            raise ValueError(f"its key {key!r} is not read; only {keys[0]} and {keys[1]} are")
    role, content = given.get(keys[0]), given.get(keys[1])
    role = _SHAREGPT.get(str(role), role) if keys[0] == "from" else role
    if role not in ROLES:
        raise ValueError(f"its role is {role!r}; only {', '.join(ROLES)} are trained on")
    _weight(given)
    return Message(str(role), _text(content))


def _text(content: Any) -> str:
    """A message's text, which may be given in parts."""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise ValueError(f"a part of its content is {kind!r:.40}, not text")
            if not isinstance(part.get("text"), str):
                raise ValueError(f"the text of a part is {part.get('text')!r:.40}, not text")  # noqa: TRY004
            unread = [k for k in part if k not in ("type", "text") and has_content(part[k])]
            if unread:
                raise ValueError(f"a part's key {unread[0]!r} is not read; only type and text are")
        content = "".join(part["text"] for part in content)
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
