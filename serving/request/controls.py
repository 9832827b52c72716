"""The base model's control tokens, which in a message's text would end the message.

Tokenizers read `<|im_end|>` in a text as the token that closes a message. A caller may write them,
and so continue an answer of its own making; what that gives is no answer to a plain question.
"""

import json
from pathlib import Path
from typing import Any


def control_tokens(model: str) -> frozenset[str]:
    """The special tokens of a base model, a directory or a Hugging Face id that lies in the cache;
    none if its tokenizer names none."""
    found: set[str] = set()
    for entry in _read(model, "tokenizer.json").get("added_tokens") or ():
        if entry.get("special"):
            found.add(entry["content"])
    config = _read(model, "tokenizer_config.json")
    for entry in (config.get("added_tokens_decoder") or {}).values():
        if entry.get("special"):
            found.add(entry["content"])
    return frozenset(token for token in found if token.strip())


def _read(model: str, name: str) -> dict[str, Any]:
    path: Any = Path(model, name)
    if not path.exists():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(model, name)
        except HFValidationError:  # a directory that is not there
            path = None
    if not isinstance(path, str | Path):
        return {}
    read: dict[str, Any] = json.loads(Path(path).read_text())
    return read
