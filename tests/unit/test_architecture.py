"""The arrows of the design: which package may import which, and who may bring in torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "adapters": set[str](),
    "registry": {"adapters"},
    "serving": {"registry", "adapters"},
    "eval": {"registry", "adapters"},
}
SERVING_PARTS = {
    "telemetry": set[str](),
    "tiers": {"errors", "telemetry"},
    "request": {"errors", "telemetry"},
    "grammars": {"errors", "telemetry"},
    "hardware": {"errors"},
    "outcomes": {"errors", "telemetry", "request"},
    "batches": {"errors", "telemetry"},
}
"""Folders of serving/, and what else of serving/ each may import. The modules beside them put the
parts together, and may import all."""
REGISTRY_PARTS = (
    ("errors", "times", "redaction", "audit"),
    ("signing", "envelope"),
    ("model", "metrics"),
    ("store", "tokens", "review_export"),
    ("log", "settings", "review_intake"),
    ("registry", "client"),
    ("publish", "notify"),
    ("maintain",),
    ("http", "hub", "web"),
    ("server",),
    ("cli",),
)
"""Parts of registry/, from the ground up: each imports only those of the lines above it. Those of
one line know nothing of each other, but for the three faces of the service."""
FACES = {"http", "hub", "web"}
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "vllm", "sklearn", "scipy"}


def paths(source: str) -> Iterator[str]:
    """Full paths of what a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which way a module looks"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(source: str) -> Iterator[str]:
    """Top-level packages that a module imports."""
    return (path.partition(".")[0] for path in paths(source))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    modules = list((ROOT / package).rglob("*.py"))
    assert modules
    for module in modules:
        ours = set(imported(module.read_text())) & MAY_IMPORT.keys() - {package}
        wrong = ours - MAY_IMPORT[package]
        assert not wrong, f"{module.relative_to(ROOT)} may not import {', '.join(sorted(wrong))}"


def test_parts_of_a_replica_are_put_together_from_outside() -> None:
    folders = {path.parent.name for path in (ROOT / "serving").glob("*/__init__.py")}
    assert folders == SERVING_PARTS.keys()
    for part, others in SERVING_PARTS.items():
        for module in (ROOT / "serving" / part).rglob("*.py"):
            ours = [path.split(".") for path in paths(module.read_text())]
            seen = {path[1] for path in ours if path[0] == "serving"} - {part}
            wrong = seen - others
            assert not wrong, f"{module.relative_to(ROOT)} may not import {', '.join(wrong)}"


def test_parts_of_the_registry_import_only_what_lies_below_them() -> None:
    level = {part: number for number, line in enumerate(REGISTRY_PARTS) for part in line}
    for module in (ROOT / "registry").rglob("*.py"):
        part = module.relative_to(ROOT / "registry").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for path in paths(module.read_text()):
            package, _, rest = path.partition(".")
            other = rest.partition(".")[0]
            if package != "registry" or other in (part, "") or {part, other} <= FACES:
                continue
            assert level[other] < level[part], f"{module.relative_to(ROOT)} imports {path}"


def test_the_log_and_its_writer_bring_in_no_web_server() -> None:
    code = "import sys, registry.registry; print({'starlette', 'fastapi'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_product_code_does_not_import_tests_or_benchmarks(package: str) -> None:
    for module in (ROOT / package).rglob("*.py"):
        assert not {"tests", "benchmarks"} & set(imported(module.read_text())), module


def test_tests_of_the_product_do_not_import_benchmarks() -> None:
    for module in (ROOT / "tests").rglob("*.py"):
        assert "benchmarks" not in imported(module.read_text()), module


@pytest.mark.parametrize(
    "module",
    [
        "adapters.admission",
        "adapters.names",
        "adapters.packs",
        "registry.http",
        "registry.client",
        "registry.cli",
        "serving.gate",
        "serving.endpoints",
    ],
)
def test_light_modules_bring_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    slow = {"numpy", "jinja2", "cryptography", "sigstore", "boto3", "fastapi", "uvicorn"}
    code = "import sys; from registry.cli import build; build(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert slow & {*done.stdout.split()} == set()


@pytest.mark.parametrize("package", [*MAY_IMPORT, "benchmarks"])
def test_modules_stay_small_enough_to_hold_in_mind(package: str) -> None:
    for module in (ROOT / package).rglob("*.py"):
        lines = len(module.read_text().splitlines())
        assert lines <= 400, f"{module.relative_to(ROOT)} has {lines} lines: split it by concept"
