"""A method on vLLM's workers that erases the KV cache.

Extension point: `--worker-extension-cls serving.worker.KVCacheEraser`. vLLM mixes the class into
its worker, in whichever process that runs, and calls the method through the engine client's
`collective_rpc`. Imports stay light: every worker process loads this module.
"""

from collections.abc import Iterable
from typing import Any


class KVCacheEraser:
    """Mixed into vLLM's worker, whose `model_runner` it uses."""

    model_runner: Any

    def lorary_erase_kv_cache(self) -> int:
        """Set the whole KV cache to zero and return its bytes. No request may be using it.

        Raises RuntimeError if there is none: then nothing was repaired.
        """
        erased = 0
        for cache in _tensors(self.model_runner.kv_caches):
            cache.zero_()
            erased += cache.numel() * cache.element_size()
        if not erased:
            raise RuntimeError("this worker has no KV cache to erase")
        return erased


def _tensors(caches: Any) -> Iterable[Any]:
    """The tensors of a layer's cache or of many, however nested."""
    if isinstance(caches, dict):
        caches = caches.values()
    if isinstance(caches, Iterable) and not hasattr(caches, "zero_"):
        for cache in caches:
            yield from _tensors(cache)
    else:
        yield caches
