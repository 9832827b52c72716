"""Only our own progress is shown: the libraries' chatter is not for the person training."""

import logging
import os
import warnings


def be_quiet() -> None:
    """Silence what the libraries say; called before they are imported, some speak at once."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in ("trl", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(trl|peft|transformers|torch)\b.*")
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
