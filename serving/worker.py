"""Methods on vLLM's workers: erase the KV cache, compare the adapters that are held.

Extension point: `--worker-extension-cls serving.worker.WorkerExtension`. vLLM mixes the class into
its worker, in whichever process that runs, and calls the methods through the engine client's
`collective_rpc`, on the workers of all data-parallel ranks. Imports stay light: every worker
process loads this module.
"""

from collections.abc import Iterable
from typing import Any


class WorkerExtension:
    """Mixed into vLLM's worker, whose attributes and `list_loras` it uses."""

    model_runner: Any
    rank: int
    parallel_config: Any

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

    def lorary_compare_adapters(self, required: list[int], allowed: list[int]) -> None:
        """Raise RuntimeError unless the worker holds all adapters of `required`, and none but those
        of `allowed`. The ids that differ are in the error, for that is what reaches the caller from
        a data-parallel rank other than the first.

        A rank's workers hold the same adapters, and only its last one compares: vLLM reads their
        answers in order up to the first error, and would take those behind it for answers to its
        next call.
        """
        if self.rank != self.parallel_config.world_size - 1:
            return
        held = set(self.list_loras())  # type: ignore[attr-defined] # of vLLM's worker
        lacks, extra = sorted(set(required) - held), sorted(held - set(allowed))
        if lacks or extra:
            raise RuntimeError(
                f"lorary: lacks [{' '.join(map(str, lacks))}], "
                f"holds besides [{' '.join(map(str, extra))}]"
            )


def _tensors(caches: Any) -> Iterable[Any]:
    """The tensors of a layer's cache or of many, however nested."""
    if isinstance(caches, dict):
        caches = caches.values()
    if isinstance(caches, Iterable) and not hasattr(caches, "zero_"):
        for cache in caches:
            yield from _tensors(cache)
    else:
        yield caches
