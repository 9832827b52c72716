"""Settings of the registry and of the command line, read once from the environment."""

import secrets
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from adapters.admission import DEFAULT_LIMITS, Limits
from adapters.home import home
from registry.store import ObjectStore, capability, open_store
from registry.store.read_only import ReadOnlyStore


class StoreSettings(BaseSettings):
    """Where the registry lies: what every process needs to know."""

    model_config = SettingsConfigDict(env_prefix="LORARY_", frozen=True)

    home: Path = Field(
        default_factory=home, description="Folder for the embedded store and for caches."
    )
    store: str = Field(
        default_factory=lambda: str(home() / "store"),
        description="Where the registry lies: a directory, or s3://BUCKET/PREFIX.",
    )
    s3_endpoint: str | None = Field(
        default=None,
        description="URL of an S3-compatible server; unset for Amazon's own. Credentials and "
        "region come from the usual AWS_ variables and files.",
    )

    max_lora_rank: Annotated[
        Literal[1, 8, 16, 32, 64, 128, 256, 320, 512], BeforeValidator(int)
    ] = Field(
        default=16,
        description="Highest LoRA rank that the registry admits and servers hold. Every slot is as "
        "large as this rank needs, so a lower one serves faster.",
    )

    def open_store(self) -> ObjectStore:
        """The object store; nothing is contacted yet."""
        return open_store(self.store, s3_endpoint=self.s3_endpoint)


class RegistrySettings(StoreSettings):
    """The registry's service (`lorary serve-registry`)."""

    registry_host: str = Field(default="127.0.0.1", description="Address the service listens on.")
    registry_port: int = Field(default=8100, ge=1, le=65535, description="Port of the service.")
    max_upload_bytes: int = Field(
        default=2 << 30, gt=0, description="Largest single file that may be uploaded."
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="Addresses and networks, separated by commas, of proxies that end TLS. Their "
        "X-Forwarded-Proto counts: cookies are Secure and addresses in answers https.",
    )
    direct_transfers: bool = Field(
        default=True,
        description="Let clients send and fetch files straight to and from an S3 bucket, by "
        "presigned requests. Turn it off where they cannot reach the bucket.",
    )

    session_secret: SecretStr = Field(
        default_factory=lambda: SecretStr(secrets.token_hex(32)),
        description="Signs browser sessions and upload addresses. Unset: a new one at each start. "
        "Set the same one for several registries behind one address.",
    )

    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="The secrets of webhooks are derived from it: 32 characters or more, the same "
        "for all registries of one store. Unset: no webhooks. To change it, set NEW,OLD until "
        "every receiver has its new secret.",
    )
    webhook_hosts: str = Field(
        default="",
        description="Hosts (HOST or HOST:PORT, separated by commas) that webhooks may reach at "
        "private addresses and without TLS.",
    )
    webhook_give_up_hours: float = Field(
        default=24.0, gt=0, description="Hours after which an undelivered event is a dead letter."
    )

    feedback_pause_seconds: float = Field(
        default=2.0,
        ge=0,
        le=5,
        description="Seconds from one commit to the next that holds feedback alone. Feedback given "
        "meanwhile waits and is written together. 0: no wait.",
    )

    read_only: bool = Field(
        default=False,
        description="Refuse every change with 503: while a bucket is copied, moved or examined.",
    )

    @field_validator("webhook_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if any(len(part) < 32 for part in _parts(secret.get_secret_value())):
            raise ValueError("each of the secrets between commas has at least 32 characters")
        return secret

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        for part in _parts(proxies):
            if "/" in part:
                ip_network(part)  # the server would take any other text for a name
        return proxies

    @property
    def webhook_secrets(self) -> list[str]:
        """The secret that new webhooks get theirs from, and older ones."""
        return _parts(self.webhook_secret.get_secret_value())

    @property
    def allowed_webhook_hosts(self) -> frozenset[str]:
        """Hosts that may have private addresses."""
        return frozenset(host.lower() for host in _parts(self.webhook_hosts))

    def open_store(self) -> ObjectStore:
        """The object store, one that takes nothing new where the settings say so."""
        store = super().open_store()
        return ReadOnlyStore(store) if self.read_only else store

    def open_store_to_write(self) -> ObjectStore:
        """As `open_store`, once the store has shown that it keeps its promises.

        Nothing is tried on a store that takes nothing new. Raises `StoreUnfit`,
        `StoreUnavailable`.
        """
        store = self.open_store()
        if not self.read_only:
            capability.check(store)
        return store

    @property
    def limits(self) -> Limits:
        """What admission accepts."""
        return replace(
            DEFAULT_LIMITS, max_rank=self.max_lora_rank, max_file_bytes=self.max_upload_bytes
        )


class ClientSettings(BaseSettings):
    """The command line as a client of a registry's service."""

    model_config = SettingsConfigDict(env_prefix="LORARY_", frozen=True)

    registry_url: str = Field(
        default="http://127.0.0.1:8100", description="The registry's service, for the client."
    )
    key: SecretStr = Field(
        default=SecretStr(""), description="Your API key (lry_...), for the client."
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
