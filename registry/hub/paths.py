"""The paths that a client asks about: huggingface_hub sends a form, others JSON."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from adapters.fields import FilePath

MOST = 1000
_JSON = "application/json"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Paths(BaseModel):
    """Paths, and whether to say of each when it was changed."""

    paths: Annotated[list[FilePath], Field(max_length=MOST)]
    expand: bool = False


async def asked_paths(request: Request) -> Paths:
    """What the body asks about; raises `RequestValidationError`."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if sent not in _FORMS:
            return Paths.model_validate_json(await request.body())
        fields: dict[str, Any] = {}
        async with request.form(max_files=0, max_fields=MOST + 1) as form:
            fields["paths"] = form.getlist("paths")
            if "expand" in form:
                fields["expand"] = form["expand"]
        return Paths.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


PATHS_BODY = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": Paths.model_json_schema()} for kind in (_JSON, _FORMS[0])},
    }
}
"""What the OpenAPI document says of the body."""
PathsDep = Annotated[Paths, Depends(asked_paths)]
