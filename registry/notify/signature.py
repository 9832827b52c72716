"""Secrets and signatures of webhooks, after Standard Webhooks. Pure.

A webhook's secret is derived from the operator's `LORARY_WEBHOOK_SECRET`, so that it stands neither
in the log nor in the store, which replicas, auditors and backups read. See
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

from registry.model.catalog import Webhook

PREFIX = "whsec_"


def secret_of(hook: Webhook, registry: str, operator_secret: str) -> str:
    """The secret that the webhook's receiver verifies signatures with."""
    message = "\n".join(("lorary webhook", registry, hook.id, hook.url))
    derived = hmac.digest(operator_secret.encode(), message.encode(), hashlib.sha256)
    return PREFIX + base64.b64encode(derived).decode()


def headers(secrets: list[str], message: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The headers of a delivery, signed with each of the secrets.

    message: the event's id, the same in each attempt. timestamp: of the attempt, seconds since
    1970.
    """
    content = b"%s.%d.%s" % (message.encode(), timestamp, body)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_sign(secret, content) for secret in secrets),
    }


def _sign(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
