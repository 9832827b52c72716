"""Ids of answers that prove themselves: any replica can tell what answered whom, and remembers
nothing.

vLLM names an answer after the header X-Request-Id: `chatcmpl-` or `cmpl-` and the header's value
(`_base_request_id` in 0.32.0; `/v1/messages` as chats); `/v1/responses` takes the whole id in its
body. The gate lets no caller's header through and sets its own: a nonce, the time, the key that
asks, the version that answers and the split that chose it, under an HMAC-SHA256 whose secret all
replicas of a deployment share. Nothing in it is hidden, and nothing can be made up.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
import time
from dataclasses import dataclass

from adapters.errors import InvalidName
from adapters.names import AdapterRef
from registry.model.catalog import Version
from serving.errors import UnknownResponse
from serving.request.routes import ROUTES

PREFIXES = {path: route.id_prefix for path, route in ROUTES.items()}
"""What stands before the id, by route."""
TAG = 16
NONCE = 8
MAX_LETTERS = 400
_HEAD = struct.Struct(f">{NONCE}sI")


@dataclass(frozen=True, slots=True)
class Answered:
    """What an id says: which version answered (None: the base model), whom, and when."""

    ref: AdapterRef | None
    key: str
    at: int
    """When it was asked for, seconds since 1970."""
    alias: str | None = None
    """The split alias that was asked for; None where a version was named, or nothing was split."""
    split: int = 0
    """Which of the adapter's splits chose the version; 0 where none did."""


class ResponseIds:
    """Ids of one deployment: those of another secret are unknown."""

    def __init__(self, secret: str) -> None:
        """secret: shared by all replicas; without one, ids are good for this process alone."""
        shared = secret or secrets.token_hex(32)
        self._secret = hashlib.sha256(f"lorary response ids\n{shared}".encode()).digest()

    def issue(
        self, path: str, version: Version | None, key: str, split: tuple[str, int] | None = None
    ) -> str:
        """A new id for an answer of the route `path`, without vLLM's prefix.

        split: the alias and the number of the split that chose the version, if one did.
        """
        named = "" if version is None else str(version.ref)
        if split is not None:
            named = f"{named} {split[0]} {split[1]}"
        head = _HEAD.pack(secrets.token_bytes(NONCE), int(time.time()))
        content = head + f"{key}:{named}".encode()
        return _encode(self._tag(PREFIXES.get(path, ""), content) + content)

    def read(self, text: str) -> Answered:
        """What the whole id `text` says; raises `UnknownResponse` unless it was issued here."""
        prefix = next((p for p in PREFIXES.values() if text.startswith(p)), "")
        data = _decode(text[len(prefix) :]) if len(text) <= MAX_LETTERS else b""
        tag, content = data[:TAG], data[TAG:]
        if len(content) < _HEAD.size or not hmac.compare_digest(tag, self._tag(prefix, content)):
            raise UnknownResponse(
                "`id` is not the id of an answer given here. Send the `id` of the completion."
            )
        _, at = _HEAD.unpack_from(content)
        key, _, named = content[_HEAD.size :].decode().rpartition(":")
        named, _, chosen = named.partition(" ")
        alias, _, number = chosen.partition(" ")
        try:
            ref = AdapterRef.parse(named) if named else None
            return Answered(ref, key, at, alias or None, int(number or 0))
        except (InvalidName, ValueError) as error:
            raise AssertionError("an id of ours has no version") from error

    def _tag(self, prefix: str, content: bytes) -> bytes:
        return hmac.new(self._secret, prefix.encode() + b"\n" + content, hashlib.sha256).digest()[
            :TAG
        ]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """The bytes, or none if the text is not exactly how they are written."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return b""
    return data if _encode(data) == text else b""
