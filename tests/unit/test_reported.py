"""What the registry says of a version is said again only while it is true."""

import json
from typing import Any

import msgspec

from registry.http.reading import Told
from registry.model.catalog import Version
from tests.support.catalogs import VERSION


def said(told: Told, version: Version) -> Any:
    return json.loads(bytes(told.answer(version, {}).body))


def test_what_happened_to_a_version_is_shown_at_once() -> None:
    told = Told(10)
    assert said(told, VERSION)["approvers"] == []
    approved = msgspec.structs.replace(VERSION, approvers=("doctor",))
    assert said(told, approved)["approvers"] == ["doctor"]
    assert said(told, VERSION)["approvers"] == []


def test_another_version_of_the_same_name_elsewhere_is_not_taken_for_it() -> None:
    told = Told(10)
    other = msgspec.structs.replace(VERSION, digest="f" * 64)
    assert said(told, VERSION)["digest"] != said(told, other)["digest"]


def test_only_so_many_answers_are_kept() -> None:
    told = Told(3)
    for number in range(1, 12):
        version = msgspec.structs.replace(VERSION, number=number)
        assert said(told, version)["version"] == number
        assert told.kept <= 3
