"""Libraries that would talk over our own progress bar."""

import logging
import os


def quiet_libraries() -> None:
    """Silence them. To be called before they are imported: that is when they look."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("lm_eval", "lm-eval", "httpx", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
