"""What the API takes, as Pydantic models. What it answers is the catalog's own structs."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Body(BaseModel):
    """A request's body: unknown fields are an error, not a surprise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileBody(Body):
    """One file of a version to publish."""

    path: Annotated[str, Field(min_length=1, max_length=500)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class UploadsBody(Body):
    """Digests about to be uploaded."""

    sha256: Annotated[list[Sha256], Field(max_length=1000)]


class PublishBody(Body):
    """A version to publish; its files' contents are uploaded already."""

    base: Name
    files: Annotated[list[FileBody], Field(min_length=1, max_length=1000)]


class AliasBody(Body):
    """Where an alias shall point; `expected` is the version it names now, 0 if none."""

    version: Annotated[int, Field(ge=1)]
    expected: Annotated[int | None, Field(ge=0)] = None


class ApproveBody(Body):
    """The digest of the bytes that were reviewed."""

    digest: Sha256


class ReasonBody(Body):
    """Why."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]


class GrantBody(Body):
    """A role in one domain or in all (`*`)."""

    role: Name
    domain: Name


class KeyBody(Body):
    """A key to issue."""

    name: Name
    grants: Annotated[list[GrantBody], Field(min_length=1, max_length=100)]
    expires: str | None = None


class PolicyBody(Body):
    """A domain's policy."""

    guarded: list[Name] = ["production"]
    approvals: Annotated[int, Field(ge=0, le=100)] = 1
    card_sections: list[Name] = []


class DomainBody(Body):
    """A domain to open."""

    domain: Name
    policy: PolicyBody = PolicyBody()


class DefaultBody(Body):
    """The adapter that a domain's bare name shall mean."""

    adapter: Name


class BaseBody(Body):
    """A base model to register."""

    name: Name
    digest: Sha256
    modules: Annotated[dict[str, tuple[int, int]], Field(min_length=1, max_length=100_000)]
    known_as: list[Name] = []
