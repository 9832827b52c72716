"""Salts of vLLM's prefix cache: whose requests may find one another's prompts in it.

A prompt that is in the cache is answered sooner, so whoever shares a cache can guess what others
asked. vLLM mixes a request's `cache_salt` into the key of its first block, and all later keys build
on that: requests with different salts share nothing. Callers cannot set it.

A domain's requests share one salt unless its policy says `prefix_cache: key`. The base model
belongs to no domain, so its requests have the salt of their key.
"""

import hashlib
import hmac
import secrets

from registry.model.catalog import Catalog, Key, Version


class Salts:
    """The salts of one deployment: nobody without its secret can compute one."""

    def __init__(self, secret: str) -> None:
        """secret: shared by all replicas, so that a cache which they share has hits; without one,
        salts are good for this process alone."""
        shared = secret or secrets.token_hex(32)
        self._secret = hashlib.sha256(f"lorary cache salts\n{shared}".encode()).digest()

    def salt(self, catalog: Catalog, version: Version | None, key: Key) -> str:
        """The salt of a request of `key` that `version` answers; None: the base model."""
        if version is None or catalog.domain(version.domain).policy.prefix_cache == "key":
            return self._derived("key", key.id)
        return self._derived("domain", version.domain)

    def _derived(self, kind: str, name: str) -> str:
        return hmac.new(self._secret, f"{kind}\n{name}".encode(), hashlib.sha256).hexdigest()
