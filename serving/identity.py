"""What this server runs, as reported to evaluators: engine, base model, and settings that may
change an answer.

Read from vLLM's own configuration after it has started, so options after `--` and the model's own
files are in it. The base model's digest is measured from the files in its directory before vLLM
reads them. Not verified: that the files did not change between the two, what plugins and patches in
the environment do, and the weights of a model that is named by a Hugging Face id.
"""

import functools
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adapters.base_model import digest_of
from registry.model.evidence import Engine

MAX_TEXT = 200
_SETTINGS = {
    "attention": "attention_config.backend",
    "chat_template": "template",
    "chat_template_kwargs": "args.default_chat_template_kwargs",
    "compilation": "compilation_config.mode",
    "config_overrides": "model_config.hf_overrides",
    "eager": "model_config.enforce_eager",
    "generation_config": "sampling",
    "implementation": "model_config.model_impl",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "logprobs": "model_config.logprobs_mode",
    "lora_dtype": "lora_config.lora_dtype",
    "max_lora_rank": "lora_config.max_lora_rank",
    "max_labels": "lora_config.max_lora_cls_labels",
    "max_model_len": "model_config.max_model_len",
    "pipeline_parallel": "parallel_config.pipeline_parallel_size",
    "reasoning_parser": "args.reasoning_parser",
    "revision": "model_config.revision",
    "seed": "model_config.seed",
    "speculative": "speculative_config.method",
    "structured_outputs": "structured_outputs_config.backend",
    "tensor_parallel": "parallel_config.tensor_parallel_size",
    "tokenizer_mode": "model_config.tokenizer_mode",
    "tool_parser": "args.tool_call_parser",
}
"""Settings that may change an answer, and where they stand; unset ones are left out."""
_READ = ("generation_config.json", "tokenizer*", "*.jinja", "vocab*", "merges*", "special_tokens*",
         "added_tokens*", "chat_template*")  # fmt: skip
"""Files of a model directory, beside configuration and weights, that decide what is computed."""


@functools.cache
def measured(directory: str) -> str:
    """The digest of the base model in `directory`, read once; "" for a Hugging Face id, and for
    files that are no safetensors."""
    return digest_of(Path(directory)) if Path(directory).is_dir() else ""


def describe(config: Any, args: Any, *, name: str, base: str) -> Engine:
    """The engine that was started with vLLM's `config` and its command line's `args`.

    name: of the engine, with its version. base: the base model's measured digest, or "".
    """
    model = config.model_config
    known = {
        "args": args,
        "sampling": json.dumps(model.get_diff_sampling_param(), sort_keys=True),
        "template": _template(args),
    }
    found = {name: _at(config, known, path) for name, path in _SETTINGS.items()}
    found["model_files"] = _files(Path(model.model))
    found["lorary"] = version("lorary")
    return Engine(
        name=name,
        device=_device(config),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=_text(model.quantization),
        base=base,
        settings={name: text for name, text in sorted(found.items()) if text},
    )


def _at(config: Any, known: dict[str, Any], path: str) -> str:
    """What stands at a dotted path, as text."""
    first, _, rest = path.partition(".")
    value = known[first] if first in known else getattr(config, first, None)
    for name in filter(None, rest.split(".")):
        value = getattr(value, name, None)
    return _text(value)


def _text(value: Any) -> str:
    """Short text as it is, "" for nothing; hashed if it is long or has unprintable characters."""
    if value is None or value in ("", "{}") or value == {}:
        return ""
    text = str(getattr(value, "name", value)).removeprefix("torch.")
    if len(text) <= MAX_TEXT and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _template(args: Any) -> str:
    """The chat template that the command line gives, by its content; "" for the model's own."""
    given = str(getattr(args, "chat_template", None) or "")
    if not given or not Path(given).is_file():
        return given
    return f"sha256:{hashlib.sha256(Path(given).read_bytes()).hexdigest()}"


def _files(directory: Path) -> str:
    """One digest of tokenizer, chat template and generation defaults; "" without a directory."""
    files = sorted({file for pattern in _READ for file in directory.glob(pattern)})
    listed = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else ""


def _device(config: Any) -> str:
    kind = str(config.device_config.device_type)
    if kind == "cpu":
        return kind
    from vllm.platforms import current_platform

    return str(current_platform.get_device_name())
