"""What the API takes, as Pydantic models. What it answers is the catalog's own structs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapters.fields import (
    DIGEST,
    Comment,
    Count,
    Digest,
    Name,
    Number,
    Path,
    Pem,
    Reason,
    Share,
    Word,
)
from registry.model.opinions import Category, Rating
from registry.model.trials import BoundName

Sha256 = Annotated[Digest, Field(pattern=DIGEST)]


Names = Annotated[list[Name], Field(max_length=100)]


class Body(BaseModel):
    """A request's body: unknown fields are an error, not a surprise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileBody(Body):
    """One file of a version to publish."""

    path: Path
    size: Count
    sha256: Sha256


class ProblemAnswer(BaseModel):
    """One thing wrong with one file, and the remedy."""

    file: str
    problem: str
    remedy: str


class ErrorAnswer(BaseModel):
    """What was refused, in OpenAI's terms."""

    message: str
    type: str
    param: str | None
    code: str
    problems: list[ProblemAnswer] = []


class Envelope(BaseModel):
    """Every error's answer."""

    error: ErrorAnswer


class HubError(BaseModel):
    """Every error's answer to the Hugging Face Hub's clients; the headers say more."""

    error: str | None = None


ERRORS = (400, 401, 403, 404, 408, 409, 410, 412, 413, 416, 422, 503, 504)
"""Statuses that refusals have."""


class PartBody(Body):
    """One part of a file."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0, le=1 << 30)]


class UploadBody(Body):
    """A file to upload, whole or in parts that are joined in order."""

    sha256: Sha256
    size: Count
    parts: Annotated[list[PartBody], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _adds_up(self) -> "UploadBody":
        if sum(part.size for part in self.parts) != self.size:
            raise ValueError("the parts do not add up to the file")
        if len(self.parts) == 1 and self.parts[0].sha256 != self.sha256:
            raise ValueError("a file's only part has the file's digest")
        return self


class UploadsBody(Body):
    """Files about to be uploaded."""

    files: Annotated[list[UploadBody], Field(max_length=1000)]


class AssemblyBody(Body):
    """The digests of a file's parts, in order."""

    parts: Annotated[list[Sha256], Field(min_length=1, max_length=10_000)]


class PublishBody(Body):
    """A version to publish; its files' contents are uploaded already. `expected` is the adapter's
    newest version as the publisher saw it, 0 if it has none."""

    base: Name
    files: Annotated[list[FileBody], Field(min_length=1, max_length=1000)]
    expected: Count | None = None


class AliasBody(Body):
    """Where an alias shall point; `expected` is the version it names now, 0 if none."""

    version: Number
    expected: Count | None = None


class BoundsBody(Body):
    """What a candidate must keep; null for what is not asked. Shares are 0 to 1."""

    max_error_rate: Annotated[float | None, Field(gt=0, le=1)] = 0.05
    max_latency_ratio: Annotated[float | None, Field(ge=1, le=1000)] = 2.0
    max_negative_share: Annotated[float | None, Field(gt=0, le=1)] = 0.5
    min_requests: Annotated[int, Field(ge=1, le=1_000_000_000)] = 50
    min_askers: Annotated[int, Field(ge=1, le=1_000_000)] = 2


class SplitBody(Body):
    """Which version a share of an alias's callers shall get; 0 percent ends it. With bounds null,
    only people end it."""

    candidate: Number
    percent: Annotated[int, Field(ge=0, le=99)]
    bounds: BoundsBody | None = BoundsBody()


class ArmBody(Body):
    """What a replica saw of one version."""

    requests: Count = 0
    errors: Count = 0
    first_token_p95: Annotated[float | None, Field(ge=0, le=1e9)] = None


class EvidenceBody(Body):
    """What a replica saw of a candidate and of the version it is compared with."""

    candidate: ArmBody
    stable: ArmBody
    compared: Count = 0
    slower: Count = 0


class RollbackBody(Body):
    """Which bound of which split was crossed, and what shows it."""

    candidate: Number
    split: Number
    bound: BoundName
    evidence: EvidenceBody


class FeedbackBody(Body):
    """What a caller thought of one answer."""

    response: Annotated[str, Field(min_length=1, max_length=400)]
    answered: Count
    asker: Name
    rating: Rating
    category: Category | None = None
    comment: Comment | None = None
    alias: Name | None = None
    split: Count = 0


class ApproveBody(Body):
    """The digest of the bytes that were reviewed."""

    digest: Sha256


class ReasonBody(Body):
    """Why."""

    reason: Reason


class GrantBody(Body):
    """A role in one domain or in all (`*`)."""

    role: Name
    domain: Name


class KeyBody(Body):
    """A key to issue."""

    name: Name
    grants: Annotated[list[GrantBody], Field(min_length=1, max_length=100)]
    expires: Word | None = None


class SuiteRuleBody(Body):
    """What a policy requires of one suite."""

    suite: Name
    digest: Sha256
    held_out: Sha256
    floors: Annotated[dict[Name, Share], Field(max_length=100)] = {}
    margin: Share | None = None
    better_than_base: bool = False
    confident_at: Share = 0.9
    confident_errors: Share | None = None


class PolicyBody(Body):
    """A domain's policy."""

    guarded: Names = ["production"]
    approvals: Annotated[int, Field(ge=0, le=100)] = 1
    card_sections: Names = []
    guarded_role: Name = "publish"
    keep: Number | None = None
    end_revoked: bool = True
    signers: Annotated[list[Pem], Field(max_length=50)] = []
    signature_required: bool = False
    approvers: Annotated[dict[Name, Annotated[int, Field(ge=0, le=100)]], Field(max_length=20)] = {}
    suites: Annotated[list[SuiteRuleBody], Field(max_length=100)] = []
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    looks: Annotated[int, Field(ge=1, le=1000)] = 10
    max_report_days: Annotated[int | None, Field(ge=1, le=10_000)] = None
    target_risk: Annotated[float | None, Field(gt=0, lt=1)] = None
    reviewed_items: Annotated[int, Field(ge=0, le=10_000)] = 0
    abstain: bool = False
    prefix_cache: Literal["domain", "key"] = "domain"


class EvaluationBody(Body):
    """What an evaluation found of the bytes with `digest`.

    results, calibration, engine and answered: as in the log's `EvaluationRecorded`; report: the
    whole document, which is stored as it comes.
    """

    digest: Sha256
    results: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)]
    calibration: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    answered: Annotated[str, Field(max_length=32)] | None = None
    report: dict[str, Any]


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
    modules: Annotated[dict[Name, tuple[Number, Number]], Field(min_length=1, max_length=100_000)]
    known_as: Names = []
    norms: Annotated[
        dict[Name, Annotated[float, Field(ge=0, le=1e300)]], Field(max_length=100_000)
    ] = {}
