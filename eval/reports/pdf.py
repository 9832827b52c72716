"""A report as PDF: the page, printed by an installed Chromium."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from eval.errors import NoBrowser

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge",
)  # fmt: skip
SECONDS = 120


def to_pdf(page: str, out: Path) -> None:
    """Print the page to a file. Raises `NoBrowser` where no Chromium is found or it fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NoBrowser(
            "A PDF is printed by Chromium or Chrome, and none is on the PATH. Install one, or "
            "write .html and print it from any browser."
        )
    # Chromium's sandbox refuses to run as root; what is printed is our own page without scripts.
    as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as text:
        source, made = Path(text, "report.html"), Path(text, "report.pdf")
        source.write_text(page)
        command = [
            browser, "--headless", "--disable-gpu", *as_root, f"--user-data-dir={text}/profile",
            "--no-pdf-header-footer", f"--print-to-pdf={made}", source.as_uri(),
        ]  # fmt: skip
        try:
            subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise NoBrowser(f"{browser} did not print within {SECONDS} s. Write .html.") from error
        if not made.exists():
            raise NoBrowser(f"{browser} printed nothing. Write .html and print that.")
        shutil.copyfile(made, out)
