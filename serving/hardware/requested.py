"""What the operator requested, by settings and by vLLM's options after `--`. Pure."""

from collections.abc import Mapping, Sequence

from serving.errors import CannotServe
from serving.hardware.budget import UTILISATION, Requested
from serving.hardware.devices import GIB
from serving.hardware.presets import Name

_READ = {
    "--tensor-parallel-size": "-tp",
    "--pipeline-parallel-size": "-pp",
    "--data-parallel-size": "-dp",
    "--gpu-memory-utilization": "",
    "--device-memory-utilization": "",
    "--kv-cache-memory-bytes": "",
    "--kv-cache-dtype": "",
    "--max-num-seqs": "",
    "--max-num-batched-tokens": "",
    "--quantization": "-q",
    "--dtype": "",
    "--cpu-offload-gb": "",
}
"""Options that decide about memory, and their short forms."""
_UNCERTAIN = (
    "--hf-overrides", "--load-format", "--num-gpu-blocks-override", "--offload-", "--quantization-",
    "--speculative-config", "--spec-", "-sc",
)  # fmt: skip
"""How options begin that change the model or its memory in a way that is not computed here."""
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
             "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}  # fmt: skip


def read_options(extra: Sequence[str]) -> dict[str, str]:
    """Values of those of vLLM's options that decide about memory, in any spelling it takes."""
    found: dict[str, str] = {}
    for index, argument in enumerate(extra):
        name, equals, value = argument.partition("=")
        option = _option(name)
        if option:
            following = extra[index + 1] if index + 1 < len(extra) else ""
            found[option] = value if equals else following
    return found


def _option(name: str) -> str | None:
    """The option that vLLM's parser takes `name` for; None if it is none of these."""
    if name.startswith("--"):
        spelled = name.replace("_", "-")
        begun = [option for option in _READ if option.startswith(spelled)]
        return spelled if spelled in _READ else begun[0] if len(begun) == 1 else None
    begun = [option for option, short in _READ.items() if name != "-" and short.startswith(name)]
    return begun[0] if name and len(begun) == 1 else None


def parse_request(
    settings: Mapping[str, int], rank: int, preset: Name, kv_gib: int | None, extra: Sequence[str]
) -> Requested:
    """Everything that the operator requested.

    settings: those that were set, by name. kv_gib: LORARY_KV_CACHE_GIB, if it was set. Raises
    `CannotServe` for a number that cannot be read, and for two ways to size one cache.
    """
    options = read_options(extra)
    share = options.get("--gpu-memory-utilization", options.get("--device-memory-utilization"))
    bytes_ = options.get("--kv-cache-memory-bytes")
    if kv_gib is not None and (share is not None or bytes_ is not None):
        raise CannotServe(
            "LORARY_KV_CACHE_GIB and an option of vLLM both size the KV cache. Set one of them."
        )
    try:
        return Requested(
            settings=settings,
            rank=rank,
            preset=preset,
            tensor=_number(options.get("--tensor-parallel-size")),
            pipeline=_number(options.get("--pipeline-parallel-size")) or 1,
            data=_number(options.get("--data-parallel-size")) or 1,
            utilisation=float(share) if share is not None else UTILISATION,
            kv_bytes=kv_gib * GIB if kv_gib is not None else _number(bytes_),
            kv_set=kv_gib is not None,
            sequences=_number(options.get("--max-num-seqs")),
            tokens=_number(options.get("--max-num-batched-tokens")),
            dtype=_given(options.get("--dtype")),
            kv_item_bytes=1 if options.get("--kv-cache-dtype", "").startswith("fp8") else 2,
            quantisation=options.get("--quantization", ""),
            offloaded=int(float(options.get("--cpu-offload-gb", 0)) * GIB),
            uncertain=any(one.replace("_", "-").startswith(_UNCERTAIN) for one in extra),
        )
    except ValueError as error:
        raise CannotServe(f"One of vLLM's options has no number: {error}. Correct it.") from error


def _given(dtype: str | None) -> str | None:
    return None if dtype == "auto" else dtype


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if text[-1:] in _SUFFIXES:
        return int(float(text[:-1]) * _SUFFIXES[text[-1]])
    return int(text)
