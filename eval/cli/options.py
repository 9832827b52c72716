"""Options that several commands take, and their defaults."""

from typing import Annotated

import typer

Url = Annotated[
    str, typer.Option(envvar="LORARY_API_URL", help="The OpenAI API of a running server.")
]
API_URL = "http://127.0.0.1:8000/v1"
"""Where `lorary serve` listens by default."""
REVIEW_ITEMS = 40
"""Answers that `lorary review open` chooses by default, and that a new policy asks experts for."""
