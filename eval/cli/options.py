"""Options that several commands take."""

from typing import Annotated

import typer

Url = Annotated[
    str, typer.Option(envvar="LORARY_API_URL", help="The OpenAI API of a running server.")
]
API = "http://127.0.0.1:8000/v1"
"""Where `lorary serve` listens by default."""
