"""What the API takes, as Pydantic models. What it answers is the catalog's own structs.

The bodies of commands follow from the commands (`body_of`); the others are defined here.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from annotated_types import Predicate
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    create_model,
    model_validator,
)
from pydantic_core import core_schema

from adapters.fields import (
    DIGEST_PATTERN,
    PREDICATES,
    Count,
    Digest,
    Name,
    Number,
)
from registry.model.catalog import File

Sha256 = Annotated[Digest, Field(pattern=DIGEST_PATTERN)]


Names = Annotated[list[Name], Field(max_length=100)]


class Body(BaseModel):
    """A request's body: unknown fields are an error, not a surprise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Struct:
    """Marks a field that holds a struct of the model: `Annotated[File, Struct]`."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[msgspec.Struct], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """The schema of the struct's body, whose values become the struct itself."""
        schema = handler.generate_schema(body_of(source))
        return core_schema.no_info_after_validator_function(
            lambda body: source(**given(body)), schema
        )


class FieldsOf:
    """Marks a body with the fields of a command or struct, but for those that come from
    elsewhere: `Annotated[Body, FieldsOf(IssueKey, "key", "secret_sha256")]`."""

    def __init__(self, kind: type[msgspec.Struct], *without: str) -> None:
        self._kind, self._without = kind, without

    def __get_pydantic_core_schema__(
        self, source: type[Body], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """The schema of the struct's body."""
        return handler.generate_schema(body_of(self._kind, *self._without))


@cache
def body_of(kind: type[msgspec.Struct], *without: str) -> type[Body]:
    """The fields of a command or struct as a request's body: its types, limits and defaults.

    without: fields that come from elsewhere, such as the path. Take what was sent by `given`:
    defaults are shown in the body, and set by the struct.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in without:
            continue
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = ... if default is msgspec.NODEFAULT else msgspec.to_builtins(default)
        fields[field.name] = (_as_taken(hints[field.name]), shown)
    return create_model(kind.__name__, __base__=Body, __doc__=kind.__doc__, **fields)


def given(body: BaseModel) -> dict[str, Any]:
    """The fields that a body holds, without those left to their defaults."""
    return {name: getattr(body, name) for name in body.model_fields_set}


def _as_taken(hint: Any) -> Any:
    """A field's type as pydantic takes it: structs by their own fields, predicates in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [_in_words(bound) for bound in parts[1:]]
        return Annotated[_as_taken(parts[0]), *bounds]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return Annotated[hint, Struct]
    if origin is Union or origin is UnionType:
        return Union[tuple(_as_taken(part) for part in parts)]  # noqa: UP007
    if origin in (tuple, dict):
        return origin[tuple(part if part is Ellipsis else _as_taken(part) for part in parts)]
    return hint


def _in_words(bound: Any) -> Any:
    if not isinstance(bound, Predicate):
        return bound

    def check(value: Any) -> Any:
        if not bound.func(value):
            raise ValueError(f"must {PREDICATES[bound.func]}")
        return value

    return AfterValidator(check)


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
    files: Annotated[list[Annotated[File, Struct]], Field(min_length=1, max_length=1000)]
    expected: Count | None = None


class EvaluationBody(Body):
    """What an evaluation found of the bytes with `digest`.

    results, calibration, engine, answered and run: as in the log's `EvaluationRecorded`; report:
    the whole document, which is stored as it comes.
    """

    digest: Sha256
    results: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)]
    calibration: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    answered: Annotated[str, Field(max_length=32)] | None = None
    run: Name | None = None
    report: dict[str, Any]


class BaseBody(Body):
    """A base model to register."""

    name: Name
    digest: Sha256
    modules: Annotated[dict[Name, tuple[Number, Number]], Field(min_length=1, max_length=100_000)]
    known_as: Names = []
    norms: Annotated[
        dict[Name, Annotated[float, Field(ge=0, le=1e300)]], Field(max_length=100_000)
    ] = {}
