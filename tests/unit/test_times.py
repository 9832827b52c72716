"""Timestamps: one form comes in, and moments are compared, never texts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import times
from registry.errors import BadRequest, Unauthenticated
from registry.http.metrics import _key_state
from registry.model.access import Secret, authenticate
from registry.model.catalog import Catalog, Grant, Key
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey, KeyIssued
from registry.model.machine import decide
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore

NOW = "2026-11-26T00:00:00Z"
WIDE = "\N{FULLWIDTH DIGIT TWO}\N{FULLWIDTH DIGIT ZERO}2"
PASSED = (
    "2026-9-1T00:00:00Z",
    "2026-11-5T00:00:00Z",
    "2026-11-25T3:04:05Z",
    f"{WIDE}6-09-01T00:00:00Z",
)
"""Expiries before `NOW` that earlier releases stored."""


@pytest.fixture
def operator() -> Key:
    grants = (Grant("operate", "*"),)
    return Key(id="op", name="op", secret_sha256="0" * 64, grants=grants, issued=NOW)


@pytest.mark.parametrize("expires", PASSED)
def test_a_key_in_the_log_with_an_unpadded_expiry_expires(expires: str) -> None:
    secret = Secret.generate()
    key = Key(
        id=secret.id, name="n", secret_sha256=secret.digest, grants=(), issued=NOW, expires=expires
    )
    with pytest.raises(Unauthenticated, match="expired"):
        authenticate(Catalog(keys={key.id: key}), secret, NOW)
    assert _key_state(key, NOW) == "expired"


@pytest.mark.parametrize(
    "expires",
    [
        *PASSED,
        "2027-1-31T00:00:00Z",
        f"{WIDE}7-01-31T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "2027-01-31T24:00:00Z",
        "2027-06-30T23:59:60Z",
        "2027-01-31T00:00:00+00:00",
        "2027-01-31T00:00:00.5Z",
        "2027-01-31t00:00:00z",
        " 2027-01-31T00:00:00Z",
        "2027-01-31T00:00:00Z\n",
        "2027-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2027-01-31",
        "",
        "\ud800",
        "2" * 100_000,
        "2026-11-26T00:00:00Z",
    ],
)
def test_a_key_is_issued_only_with_a_canonical_expiry_in_the_future(
    operator: Key, expires: str
) -> None:
    command = IssueKey("k", "name", "0" * 64, (Grant("operate", "*"),), expires)
    with pytest.raises(BadRequest):
        decide(Catalog(keys={"op": operator}), command, "op", NOW)


def test_a_canonical_expiry_is_kept_as_it_was_written(operator: Key) -> None:
    command = IssueKey("k", "name", "0" * 64, (Grant("operate", "*"),), "2027-01-31T00:00:00Z")
    (event,) = decide(Catalog(keys={"op": operator}), command, "op", NOW)
    assert isinstance(event, KeyIssued)
    assert event.expires == "2027-01-31T00:00:00Z"


@given(st.datetimes(timezones=st.timezones(), min_value=datetime(2, 1, 1)))
def test_what_is_written_can_be_parsed(moment: datetime) -> None:
    # Times that a clock change skips or repeats equal no time of another zone (PEP 495).
    assert times.parse(times.write(moment)) == moment.astimezone(UTC).replace(microsecond=0)


@given(st.text())
def test_an_unreadable_expiry_is_reached(text: str) -> None:
    try:
        times.instant(text)
    except ValueError:
        assert times.reached(text, NOW)


def test_a_clock_that_goes_back_makes_no_commit_older_than_the_one_before(
    local_store: LocalStore,
) -> None:
    operator = Registry.create(local_store, name="test", key_name="operator")
    clock = iter(("2100-01-01T00:00:00Z", "2099-12-31T00:00:00Z"))
    registry = Registry(local_store, clock=lambda: next(clock))
    for domain in ("medical", "legal"):
        registry.execute(CreateDomain(domain, Policy()), operator.id)
        assert registry.catalog.time == "2100-01-01T00:00:00Z"
    registry.close()
