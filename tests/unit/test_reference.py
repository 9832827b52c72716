"""The reference pages are what the code says now, and nothing is without a description."""

import re
from pathlib import Path

import pytest

from reference import configuration, errors, events, metrics
from reference.markdown import described_fields, first_paragraph, table
from reference.pages import NOTE, PAGES, made
from registry.cli.evidence import UNDECIDED
from registry.cli.exits import DONE, INTERNAL, INTERRUPTED, NO, UNKNOWN, USAGE
from registry.cli.help import EXIT_CODES
from registry.model.access import ROLE_MEANINGS, ROLES
from registry.model.evidence import SuiteRule
from registry.model.machine import events as log_events
from registry.model.policies import POLICY_FIELDS, RULE_FIELDS, Policy
from registry.model.webhooks import EVENT_TYPES
from registry.notify.cloudevents import SHOWN
from serving.request.routes import ROUTES

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return made()


def test_the_pages_are_what_the_code_says(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        assert (FOLDER / name).read_text() == text, (
            f"docs/reference/{name} is stale: make reference"
        )
    marked = {path.name for path in FOLDER.glob("*.md") if path.read_text().startswith(NOTE)}
    assert marked == PAGES.keys()


def test_no_cell_of_a_table_is_without_its_meaning(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        for line in text.splitlines():
            if line.startswith("| ") and not line.startswith("| ---"):
                assert not line.endswith("|  |"), f"{name}: {line}"


def test_every_setting_is_described() -> None:
    for kind in configuration.settings().values():
        for name, field in kind.model_fields.items():
            assert field.description, name


def test_every_field_of_a_policy_is_described() -> None:
    for kind, order in ((Policy, POLICY_FIELDS), (SuiteRule, RULE_FIELDS)):
        meanings = described_fields(kind)
        assert meanings.keys() == order.keys()
        assert all(meanings.values()), meanings


def test_every_role_is_described() -> None:
    assert tuple(ROLE_MEANINGS) == ROLES


def test_every_exit_code_is_described() -> None:
    assert {DONE, NO, USAGE, UNKNOWN, INTERNAL, INTERRUPTED} == EXIT_CODES.keys()
    assert UNDECIDED == UNKNOWN


def test_every_error_is_on_the_page_with_a_meaning() -> None:
    listed = {kind for kinds in errors.every().values() for kind in kinds}
    ours = {kind for kind in errors.kinds() if not kind.__module__.startswith("tests")}
    assert ours <= listed, f"add to reference/errors.py: {ours - listed}"
    assert all(first_paragraph(kind) for kind in listed)


def test_every_metric_has_a_meaning_and_a_name_of_ours() -> None:
    found = [one for group in metrics.every().values() for one in group]
    assert len(found) > 50
    for one in found:
        assert one.name.startswith("lorary"), one
        assert one.meaning, one


def test_metrics_defined_anywhere_in_the_code_are_on_the_page(pages: dict[str, str]) -> None:
    pattern = re.compile(r'(?:Counter|Gauge|Histogram|MetricFamily|_gauge)\(\s*"(lorary[\w:]+)"')
    root = FOLDER.parents[1]
    modules = [path for part in ("registry", "serving") for path in (root / part).rglob("*.py")]
    names = {name for path in modules for name in pattern.findall(path.read_text())}
    assert len(names) > 50
    for name in names:
        assert re.search(rf"`{name}(_total)?`", pages["metrics.md"]), name


def test_every_event_is_described() -> None:
    assert events.PUBLIC.keys() == set(EVENT_TYPES)
    assert all(first_paragraph(kind) for kind in log_events().values())
    assert SHOWN.keys() <= set(log_events().values())


def test_routes_of_the_serving_page_are_the_gateways() -> None:
    page = PAGES["serving-api.md"]()
    for path in ROUTES:
        assert f"`POST {path}`" in page


def test_cells_keep_their_table() -> None:
    assert table(("a", "b"), [("x|y", "one\ntwo")]).splitlines()[-1] == "| x\\|y | one two |"
