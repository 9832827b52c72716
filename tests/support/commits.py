"""Commits written past the registry: what older versions wrote, or an attacker would."""

import hashlib
import secrets
from typing import Any

import msgspec

from registry import checkpoints
from registry.events import AnyEvent, Commit, Entry
from registry.log import commit_key
from registry.store import ObjectStore


def append(store: ObjectStore, *events: AnyEvent, actor: str = "older", **changes: Any) -> int:
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
    store.put(commit_key(sequence), data := data.replace(old, new), "overwrite")
    for later in range(sequence + 1, 1 << 30):
        try:
            commit = msgspec.json.decode(store.get(commit_key(later)))
        except LookupError:
            return
        except Exception:
            return
        commit["previous"] = hashlib.sha256(data).hexdigest()
        store.put(commit_key(later), data := msgspec.json.encode(commit), "overwrite")
