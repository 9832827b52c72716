"""Writes the dashboards that the chart ships.

python -m helm.dashboards.build
"""

from pathlib import Path

from helm.dashboards import on_call, operators, owners
from helm.dashboards.panels import Dashboard, as_json

FOLDER = Path(__file__).parents[1] / "lorary" / "files" / "dashboards"
PAGES: tuple[Dashboard, ...] = (operators.PAGE, owners.PAGE, on_call.PAGE)


def built() -> dict[Path, str]:
    """Every file, and what is to be in it."""
    return {FOLDER / f"{page.uid.removeprefix('lorary-')}.json": as_json(page) for page in PAGES}


def main() -> None:
    """Write them."""
    for path, text in built().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
