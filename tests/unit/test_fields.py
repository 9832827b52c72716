"""Every field of what may enter the log or a route has a bound."""

from typing import get_args

import pytest

from adapters import fields
from registry.commands import Command


@pytest.mark.parametrize("command", get_args(Command), ids=lambda kind: kind.__name__)
def test_every_field_of_a_command_has_a_bound(command: type) -> None:
    fields._check(command)  # raises TypeError with the field's name
