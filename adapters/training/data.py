"""What a recipe trains on: rows from domain packs, tasks' folders, JSON Lines files and the hub.

Rows of a JSON Lines file or a hub data set, by stage:

    sft                {"prompt": ..., "completion": ...} or {"messages": [..., the answer last]}
    reward, dpo, kto   {"prompt": ..., "chosen": ..., "rejected": ...}
    kto                {"prompt": ..., "completion": ..., "label": true or false}
    ppo, rloo, grpo    {"prompt": ...}, and "completion" where the reward is `verifiable`

Alpaca's rows and OpenAI's preferences are read, too (formats.py).

A prompt is text, or a conversation (conversations.py) that ends with the user's message: system
message and earlier turns are part of what the model is trained to answer. An answer is text or the
assistant's message. Of "messages" every answer by the assistant is learnt, each after the whole
conversation before it, but for those with "weight": 0; of "prompt" and "completion" the completion
alone. That is what TRL does with `assistant_only_loss`, and with prompt and completion.

Nothing of a row is left out without a word. Content under a key that the stage does not read is
refused, unless it repeats what is read or the key describes the row (`conversations.METADATA`).
Stage sft learns "chosen" where there is no "completion", and passes over "rejected"; it refuses an
answer with "label": false, which stage kto learns from.

An optional "unit" names what must stay on one side of a split, by default the last user message; an
optional "review" the expert review that a row comes from, as `lorary review export` writes it.

A part of any source is named as in `datasets`, in percent, but of its units: `medical[:60%]` and
`medical[60%:]` have none in common, so that preferences are about questions that fine-tuning has
not seen.

A task's folder gives the items of its training side as its first prompt asks them, with the target
as the answer; those that are held out, or fit the calibration, are never read.

A domain pack has no judgements by people. Its preference pairs are made from its verifiable
answers: the right label is preferred to another label drawn at random, or to what the model that is
continued answers wrongly (mistakes.py). They show the machinery at work, not what experts prefer.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from adapters import json_lines
from adapters.packs import TASKS, DomainPack, Item, contamination
from adapters.packs.pack import lot
from adapters.recipe import BadRecipe, Classify, Kto, Online, Recipe, Sft
from adapters.training import conversations
from adapters.training.conversations import Conversation, asking
from adapters.training.formats import renamed
from adapters.training.rows import Judged, Pair, Row, Turn
from adapters.training.tasks import held_out_of, is_task, of_task

HUB = "hub:"
PART = re.compile(r"(?P<name>.+)\[(?:(?P<first>\d{1,3})%)?:(?:(?P<end>\d{1,3})%)?\]")

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Corpus(Generic[R]):
    """The rows of one training."""

    train: tuple[R, ...]
    validation: tuple[R, ...]
    replay: tuple[Turn, ...]
    digest: str
    """SHA-256 that stands for every source's content."""
    packs: tuple[DomainPack, ...]
    """The packs among the sources."""
    origin: dict[str, str]
    """Each source and where its rows come from, for the card."""
    reviews: tuple[str, ...]
    """The expert reviews that rows say they come from."""
    dropped: int = 0
    """Rows that were left out because they are too long (lengths.py)."""
    leaked: int = 0
    """Rows that were left out because a task among the sources holds their text out."""


def corpus_of(recipe: Recipe) -> Corpus[Any]:
    """The rows for the recipe's stage, in a fixed order.

    Raises `BadRecipe` for a source that is not there, or a row that does not suit the stage.
    """
    match recipe:
        case Classify():
            from adapters.training.classification import rows

            return rows.corpus_of(recipe)
        case Sft():
            return read_corpus(recipe, _turns_of_pack, _turns)
        case Online():
            verifiable = recipe.reward == "verifiable"
            return read_corpus(recipe, _turns_of_pack, _verifiable if verifiable else _prompts)
        case Kto():
            return read_corpus(recipe, _judged_of_pack, _judged)
        case _:
            return read_corpus(recipe, _pairs_of_pack, _pairs)


def read_corpus(
    recipe: Recipe,
    from_pack: Callable[[DomainPack, Sequence[Item]], Iterable[R]],
    from_row: Callable[[dict[str, Any]], Iterable[R]],
) -> Corpus[R]:
    """The rows of the recipe's sources, split from its validation rows by unit.

    from_pack, from_row: make rows of a domain pack's items and of a row of any other source. Raises
    `BadRecipe`.
    """
    rows: list[R] = []
    held = _held_out(recipe.data)
    leaked = 0
    digests, packs, origin = [], [], {}
    reviews = set[str]()
    for source in recipe.data:
        name, among = part(source)
        if name in TASKS:
            pack = TASKS[name]
            if pack.exam:
                raise BadRecipe(f"{name} is an exam, for judging only. Train on another task.")
            data = pack.load()
            packs.append(pack)
            digests.append(data.digest)
            items = [item for item in data.train if among(item.unit)]
            allowed = [item for item in items if not contamination.among(item.text, held)]
            leaked += len(items) - len(allowed)
            made = from_pack(pack, allowed)
            rows += [replace(row, where=f"{name}, {row.question!r:.60}") for row in made]
            origin[source] = ", ".join(f"{s.package} {s.version}" for s in pack.sources)
        else:
            if is_task(name):
                raw, digest = of_task(name, labelled=isinstance(recipe, Classify))
            else:
                raw, digest = _read(name)
            digests.append(digest)
            chosen = [(g, row) for g, row in _converted(name, raw, from_row) if among(row.unit)]
            used = [(g, row) for g, row in chosen if not _asks_held_out(row.question, held)]
            leaked += len(chosen) - len(used)
            rows += [row for _, row in used]
            reviews |= {g["review"] for g, _ in used if isinstance(g.get("review"), str)}
            origin[source] = f"{len(raw)} rows, SHA-256 {digest[:12]}"
    replay: tuple[Turn, ...] = ()
    if isinstance(recipe, Sft) and recipe.replay:
        raw, digest = _read(recipe.replay_data)
        digests.append(digest)
        replay = tuple(row for _, row in _converted(recipe.replay_data, raw, _turns))
        origin[recipe.replay_data] = f"{len(raw)} rows for replay, SHA-256 {digest[:12]}"
    kept_out = [row for row in rows if lot(f"validation {row.unit}") < recipe.validation]
    train = [row for row in rows if lot(f"validation {row.unit}") >= recipe.validation]
    if not train or (recipe.validation and not kept_out):
        raise BadRecipe(f"{', '.join(recipe.data)} holds too few rows. Name more data.")
    joined = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    digest = digests[0] if len(digests) == 1 else joined
    return Corpus(
        tuple(train),
        tuple(kept_out),
        replay,
        digest,
        tuple(packs),
        origin,
        tuple(sorted(reviews)),
        leaked=leaked,
    )


def _held_out(sources: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """The texts that the tasks among several sources hold out; one task alone holds its own."""
    names = {part(source)[0] for source in sources}
    if len(names) < 2:
        return frozenset()
    packs = [TASKS[name] for name in names if name in TASKS]
    folders = [held_out_of(name) for name in names if is_task(name)]
    return frozenset().union(*map(contamination.held_out_texts, packs), *folders)


def _asks_held_out(question: str, held: Collection[tuple[str, ...]]) -> bool:
    """Whether a question is a held-out text, or asks about one as a task does: "Noun: TEXT"."""
    asked = question.rpartition("\n\n")[2].partition(": ")[2]
    return contamination.among(question, held) or contamination.among(asked, held)


def part(source: str) -> tuple[str, Callable[[str], bool]]:
    """A source's name, and whether a unit is in the part of it that is named.

    Raises `BadRecipe` for a part that holds nothing.
    """
    name, first, end = share_of(source)
    return name, lambda unit: first <= lot(f"part {unit}") < end


def share_of(source: str) -> tuple[str, float, float]:
    """A source's name, and from where to where in 0..1 its part reaches; raises as `part`."""
    found = PART.fullmatch(source)
    if found is None:
        return source, 0.0, 1.0
    first, end = int(found["first"] or 0) / 100, int(found["end"] or 100) / 100
    if not 0 <= first < end <= 1:
        raise BadRecipe(f"{source!r} is not a part. Write NAME[:60%] or NAME[60%:].")
    return found["name"], first, end


def seen_before(sources: Sequence[str], earlier: Sequence[str]) -> list[str]:
    """Which sources have units in common with those that an earlier training named."""
    parts = [share_of(source) for source in earlier]

    def common(source: str) -> bool:
        name, first, end = share_of(source)
        return any(name == n and first < e and f < end for n, f, e in parts)

    return [source for source in sources if common(source)]


def _read(source: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of a file or of a hub data set, and the SHA-256 of their content."""
    if source.startswith(HUB):
        from datasets import load_dataset

        name = source.removeprefix(HUB)
        try:
            rows = [dict(row) for row in load_dataset(name, split="train")]
        except Exception as error:  # whatever the hub's client raises, it has no rows for us
            raise BadRecipe(f"{source}: {error}. Check the id and the network.") from error
        return rows, hashlib.sha256(msgspec.json.encode(rows, order="sorted")).hexdigest()
    path = Path(source)
    if path.suffix != ".jsonl" or not path.is_file():
        raise BadRecipe(
            f"data names {source!r}, which is no .jsonl file here, no task's folder, and no task "
            f"that Lorary ships ({', '.join(TASKS)}). Correct the name, or write hub:ID for a hub "
            "data set."
        )
    content = path.read_bytes()
    try:
        rows = json_lines.rows(content)
    except ValueError as error:
        raise BadRecipe(f"{source} is not JSON Lines: {error}. Mend the line.") from error
    return rows, hashlib.sha256(content).hexdigest()


def _converted(
    source: str, raw: Sequence[Any], from_row: Callable[[dict[str, Any]], Iterable[R]]
) -> Iterator[tuple[dict[str, Any], R]]:
    """Each row as it was given, with each that it becomes."""
    for number, row in enumerate(raw, 1):
        try:
            if not isinstance(row, dict):
                raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301 - as the others
            for made in from_row(renamed(row)):
                yield row, replace(made, where=f"{source}, row {number}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            lacking = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise BadRecipe(
                f"{source}, row {number} does not suit this stage: {lacking}. "
                "See `lorary train --help` for the rows of each stage."
            ) from error


def _turns(row: dict[str, Any]) -> Iterable[Turn]:
    """Every answer of a conversation, or the one answer to a prompt."""
    key = _conversation_key(row)
    if key:
        found = conversations.answered(row[key])
        unit = unit_of(row, found[-1][0])
        turns = [Turn(prompt, unit, answer) for prompt, answer in found]
        return _whole(row, (key, *_accepted(row)), turns)
    prompt = conversations.prompt(row["prompt"])
    key = "chosen" if "completion" not in row and "chosen" in row else "completion"
    turn = Turn(prompt, unit_of(row, prompt), conversations.answer(row[key], prompt))
    return _whole(row, ("prompt", key, *_accepted(row)), [turn])


def _prompts(row: dict[str, Any]) -> Iterable[Turn]:
    """The prompt of a row, with the reference answer if there is one."""
    key = _conversation_key(row)
    if key:
        prompt = conversations.conversation(row[key])
        answer = ""
        if prompt[-1].role == "assistant" and prompt[1:]:
            conversations.refuse_weightless(row[key])
            prompt, answer = prompt[:-1], prompt[-1].content
        conversations.awaiting(prompt)
        turn = Turn(prompt, unit_of(row, prompt), answer)
        return _whole(row, (key, *_accepted(row)), [turn])
    prompt = conversations.prompt(row["prompt"])
    key = "chosen" if row.get("completion") is None else "completion"
    given = row.get(key)
    answer = "" if given is None else conversations.answer(given, prompt)
    turn = Turn(prompt, unit_of(row, prompt), answer)
    return _whole(row, ("prompt", key, *_accepted(row)), [turn])


def _verifiable(row: dict[str, Any]) -> Iterable[Turn]:
    turns = _prompts(row)
    if not all(turn.answer for turn in turns):
        raise KeyError("completion")
    return turns


def _pairs(row: dict[str, Any]) -> Iterable[Pair]:
    """A pair, whose prompt may stand before both answers instead of under its own key."""
    if conversations.has_content(row.get("prompt")):
        prompt = conversations.prompt(row["prompt"])
    elif isinstance(row["chosen"], list):
        prompt = conversations.prompt(row["chosen"][:-1])
    else:
        raise KeyError("prompt")
    chosen, rejected = (conversations.answer(row[key], prompt) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    better, worse = row.get("score_chosen"), row.get("score_rejected")
    if better is not None and worse is not None and better < worse:
        raise ValueError("score_chosen is below score_rejected: exchange the two answers")
    pair = Pair(prompt, unit_of(row, prompt), chosen, rejected)
    return _whole(row, ("prompt", "chosen", "rejected"), [pair])


def _judged(row: dict[str, Any]) -> Iterable[Judged]:
    if row.get("label") is None:
        return [
            Judged(pair.prompt, pair.unit, answer, good)
            for pair in _pairs(row)
            for answer, good in ((pair.chosen, True), (pair.rejected, False))
        ]
    if not isinstance(row["label"], bool):
        raise TypeError("label is neither true nor false")
    prompt = conversations.prompt(row["prompt"])
    answer = conversations.answer(row["completion"], prompt)
    judged = Judged(prompt, unit_of(row, prompt), answer, row["label"])
    return _whole(row, ("prompt", "completion", "label"), [judged])


def _conversation_key(row: dict[str, Any]) -> str:
    """The key of a whole conversation; none if the row has a prompt of its own instead."""
    keys = [key for key in ("messages", "conversations") if key in row]
    with_content = [key for key in keys if conversations.has_content(row[key])]
    if not with_content and conversations.has_content(row.get("prompt")):
        return ""
    return next(iter(with_content + keys), "")


def _accepted(row: dict[str, Any]) -> tuple[str, ...]:
    """Keys by which people judged a row whose answer is to be learnt: it may have a worse one.

    Raises `ValueError` if they rejected the answer itself.
    """
    label = row.get("label")
    if label is False:
        raise ValueError(
            "its answer was rejected (label: false): train on it by stage kto, or remove the row"
        )
    return ("rejected", "label") if label is True else ("rejected",)


def _whole(row: dict[str, Any], read: Collection[str], made: Sequence[R]) -> Sequence[R]:
    """What was made of a row; raises `ValueError` if that is not all of it.

    read: the keys that it was made of.
    """
    texts = {message.content for each in made for message in each.prompt}
    conversations.refuse_unread(row, read, texts.union(*(each.answers for each in made)))
    return made


def unit_of(row: dict[str, Any], prompt: Conversation) -> str:
    """What keeps a row together with others when rows are split: its `unit`, or its question."""
    unit = row.get("unit")
    return str(unit if conversations.has_content(unit) else prompt[-1].content)


def _turns_of_pack(pack: DomainPack, items: Sequence[Item]) -> Iterator[Turn]:
    for item in items:
        yield Turn(asking(pack.question(item)), item.unit, item.label)


def _pairs_of_pack(pack: DomainPack, items: Sequence[Item]) -> Iterator[Pair]:
    labels = pack.labels or tuple(dict.fromkeys(item.label for item in items))
    for item in items:
        others = [label for label in labels if label != item.label]
        wrong = others[int(lot(f"rejected {item.text}") * len(others))]
        prompt = asking(pack.question(item))
        yield Pair(prompt, item.unit, item.label, wrong, judged=False)


def _judged_of_pack(pack: DomainPack, items: Sequence[Item]) -> Iterator[Judged]:
    for pair in _pairs_of_pack(pack, items):
        good = lot(f"thumb {pair.question}") < 0.5
        yield Judged(pair.prompt, pair.unit, pair.chosen if good else pair.rejected, good)
