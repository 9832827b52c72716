"""vLLM's own worker of adapters over tiny models on the CPU, without an engine.

`Judge.load` reads, checks, merges and places an adapter by the code that a server runs for it, into
the very buffers that its layers multiply with. vLLM wraps no experts on a CPU: of a mixture of
experts only the loading is vLLM's, and the check of the experts' format is repeated here.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MAX_RANK = 64
CLASSIFIES: dict[str, Any] = {
    "runner": "pooling",
    "convert": "classify",
    "max_lora_cls_labels": 64,
    "hf_overrides": {"method": "no_post_processing", "classifier_from_token": ["<|end|>"]},
}
SLOT = 1


@dataclass
class Loaded:
    """An adapter that vLLM holds."""

    ignored: list[str]
    """Modules that have tensors of which no layer takes notice."""
    updates: dict[str, NDArray[np.float32]]
    """What is added to the weights of each linear module; empty for a mixture of experts."""


class Judge:
    """The worker's manager of adapters over one model."""

    def __init__(self, directory: Path, *, classifies: bool = False) -> None:
        """classifies: as an engine for classification heads holds it."""
        from vllm.config import set_current_vllm_config
        from vllm.engine.arg_utils import EngineArgs
        from vllm.lora.utils import is_moe_model
        from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
        from vllm.model_executor.model_loader.utils import initialize_model
        from vllm.utils.torch_utils import set_default_torch_dtype

        config = EngineArgs(
            model=str(directory),
            enable_lora=True,
            max_loras=1,
            max_cpu_loras=1,
            max_lora_rank=MAX_RANK,
            enforce_eager=True,
            dtype="bfloat16",
            max_model_len=512,
            max_num_seqs=2,
            **(CLASSIFIES if classifies else {}),
        ).create_engine_config()
        with set_current_vllm_config(config), _one_process():
            with set_default_torch_dtype(torch.bfloat16):
                model = initialize_model(vllm_config=config, model_config=config.model_config)
            self._worker = LRUCacheWorkerLoRAManager(
                config, torch.device("cpu"), model.embedding_modules
            )
            self._experts = is_moe_model(model)
            if self._experts:
                self._worker._adapter_manager = _without_layers(model)
            else:
                self._worker.create_lora_manager(model, config)

    def load(self, directory: Path) -> Loaded:
        """The adapter in `directory`; raises what vLLM raises if it refuses it."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest("adapter", SLOT, str(directory))
        manager = self._worker._adapter_manager
        if self._experts:
            written = self._worker._load_adapter(request).loras
            known = {name for name, _ in manager.model.named_modules()} | manager.parts
            return Loaded(sorted(written.keys() - known), {})
        try:
            self._worker.add_adapter(request)
            held = manager.get_adapter(SLOT).loras
            return Loaded(sorted(held.keys() - manager.modules.keys()), _updates(manager))
        finally:
            manager.remove_adapter(SLOT)
            manager.lora_index_to_id = [None]


def _updates(manager: Any) -> dict[str, NDArray[np.float32]]:
    """The products of what lies in the layers' buffers."""
    found = {}
    for name, module in manager.modules.items():
        if name.endswith(("lm_head", "embed_tokens")):
            continue
        parts = manager.packed_modules.get(name, [name])
        for part, a, b in zip(parts, module.lora_a_stacked, module.lora_b_stacked, strict=True):
            found[part] = (b[0, 0].float() @ a[0, 0].float()).numpy()
    return found


def _without_layers(model: Any) -> Any:
    """What the worker asks of a manager while it loads an adapter."""
    from vllm.lora.utils import get_supported_lora_modules, process_packed_modules_mapping

    packed = process_packed_modules_mapping(model)
    runners = [name for name, _ in model.named_modules() if name.endswith(".experts")]
    linear = {
        f"{name.rpartition('.')[0]}.{part}"
        for name, _ in model.named_modules()
        for part in packed.get(name.rpartition(".")[2], ())
    }

    def refuse_fused(adapter: Any) -> None:
        if any(
            torch.is_tensor(adapter.loras[name].lora_a) for name in runners if name in adapter.loras
        ):
            raise ValueError("contains fused 3D MoE weights, but the model uses a 2D wrapper")

    return SimpleNamespace(
        supported_lora_modules=get_supported_lora_modules(model),
        packed_modules_mapping=packed,
        model=model,
        moe_ep_load_spec=None,
        parts=linear,
        _validate_moe_lora_format=refuse_fused,
        _validate_modules_to_save=lambda adapter: None,
        _validate_token_classification_lora=lambda adapter: None,
    )


@contextmanager
def _one_process() -> Iterator[None]:
    """vLLM's process groups, of this process alone, while a model is built."""
    from vllm.distributed import (
        cleanup_dist_env_and_memory,
        ensure_model_parallel_initialized,
        init_distributed_environment,
    )

    with tempfile.TemporaryDirectory() as folder:
        init_distributed_environment(1, 0, f"file://{folder}/store", 0, backend="gloo")
        try:
            ensure_model_parallel_initialized(1, 1)
            yield
        finally:
            cleanup_dist_env_and_memory()
