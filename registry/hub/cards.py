"""A card's metadata, as the Hub's clients read it from a model."""

from typing import Any

import msgspec

from adapters.admission import CARD
from adapters.card import MAX_CARD_BYTES, parse_card
from adapters.errors import InvalidAdapter
from registry.errors import ObjectNotFound
from registry.model.catalog import Version
from registry.store import ObjectStore
from registry.store.blobs import Blobs


def card_data(store: ObjectStore, version: Version) -> dict[str, Any] | None:
    """The metadata of the version's card; None if it has none that JSON can express."""
    card = next((file for file in version.files if file.path == CARD), None)
    if card is None or card.size > MAX_CARD_BYTES or version.tombstone is not None:
        return None
    try:
        metadata = parse_card(Blobs(store).get(card.sha256)).metadata
        plain = msgspec.json.decode(msgspec.json.encode(metadata, enc_hook=str))
    except (ObjectNotFound, InvalidAdapter, TypeError, ValueError, OverflowError):
        return None  # what JSON cannot express is a card that earlier releases admitted
    return dict(plain)
