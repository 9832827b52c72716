"""Settings, values and links that the operators' documents name exist."""

import re
from pathlib import Path

import pytest
import yaml

from registry.settings import ClientSettings, RegistrySettings
from serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "docs" / "how-to" / "operate.md",
    *sorted((ROOT / "docs" / "runbooks").glob("*.md")),
]
CODE = re.compile(r"```sh\n(.*?)```|`([^`\n]+)`", re.S)


def spoken(page: Path) -> str:
    """Everything in code on a page."""
    return "\n".join(block or inline for block, inline in CODE.findall(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_and_values_that_are_named_exist(page: Path) -> None:
    kinds = (ClientSettings, RegistrySettings, ServingSettings)
    fields = {name for kind in kinds for name in kind.model_fields}
    for name in re.findall(r"LORARY_([A-Z_]+)", spoken(page)):
        assert name.lower() in fields, name
    values = yaml.safe_load((ROOT / "helm" / "lorary" / "values.yaml").read_text())
    for path in re.findall(r"\b((?:front|registry|serving|store)\.[a-zA-Z]+)\b", spoken(page)):
        section, name = path.split(".")
        assert name in values[section], path
    for name in re.findall(r"\bpools\.NAME\.([a-zA-Z]+)", spoken(page)):
        assert name in values["poolDefaults"], name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
