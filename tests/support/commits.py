"""Commits written past the registry: what older versions wrote, or an attacker would."""

import hashlib
import secrets
from typing import Any

import msgspec

from registry.errors import ObjectNotFound
from registry.log import checkpoints
from registry.log.commits import Commit, commit_key
from registry.model.base import Entry, Event
from registry.store import ObjectStore


def append(store: ObjectStore, *events: Event, actor: str = "older", **changes: Any) -> int:
    """Append a commit with these events, whatever the rules say; its number."""
    before = checkpoints.load(store)
    commit = Commit(
        sequence=before.sequence + 1,
        id=secrets.token_hex(16),
        time=before.time,
        previous=before.head,
        entries=tuple(Entry(actor, event) for event in events),
    )
    data = msgspec.json.encode(msgspec.structs.replace(commit, **changes))
    store.put(commit_key(commit.sequence), data, "create")
    return commit.sequence


def rewrite(store: ObjectStore, sequence: int, old: bytes, new: bytes) -> None:
    """Change a commit, and every one after it so that the chain holds again."""
    data = store.get(commit_key(sequence))
    assert old in data
    data = data.replace(old, new)
    store.put(commit_key(sequence), data, "overwrite")
    while True:
        sequence += 1
        try:
            commit = msgspec.json.decode(store.get(commit_key(sequence)))
        except ObjectNotFound:
            return
        commit["previous"] = hashlib.sha256(data).hexdigest()
        data = msgspec.json.encode(commit)
        store.put(commit_key(sequence), data, "overwrite")
