"""Write the pages: `python -m reference`."""

from pathlib import Path

from reference import pages

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"


def main() -> None:
    """Write every page."""
    for name, text in pages.made().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
