"""How the memory of one GPU and of the host is divided. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from serving.hardware import memory
from serving.hardware.devices import GIB, Gpu
from serving.hardware.memory import Shape
from serving.hardware.presets import Name

UTILISATION = 0.92
"""vLLM's own share of a GPU's memory."""
LEAST_WORKING = GIB
"""What a step needs at least, so that only what cannot fit is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What the operator set: settings by name, and those of vLLM's options that count here."""

    settings: Mapping[str, int] = field(default_factory=dict)
    rank: int = 16
    preset: Name = "standard"
    tensor: int | None = None
    pipeline: int = 1
    data: int = 1
    """Data-parallel ranks: each has the whole model, slots of its own and every adapter."""
    utilisation: float = UTILISATION
    kv_bytes: int | None = None
    """Of the KV cache, on each GPU."""
    kv_set: bool = False
    """Whether a setting says so, rather than an option of vLLM."""
    sequences: int | None = None
    tokens: int | None = None
    dtype: str | None = None
    kv_item_bytes: int = 2
    quantisation: str = ""
    """How vLLM shall quantise the weights as it reads them; empty: not at all."""
    offloaded: int = 0
    """Bytes of weights on each GPU's account that stay in host memory."""
    uncertain: bool = False
    """Whether an option changes the model or its memory in a way that is not computed here; then
    nothing is refused for a GPU's memory."""


@dataclass(frozen=True, slots=True)
class Part:
    """What some of the memory is for."""

    name: str
    size: int
    """Bytes."""
    of: str
    """GPU or host."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How one GPU's memory is divided."""

    gpu: Gpu
    shape: Shape
    asked: Requested
    tensor: int

    @property
    def whole(self) -> int:
        """Bytes that vLLM may take of each GPU."""
        return int(self.gpu.memory * self.asked.utilisation)

    @property
    def weights(self) -> int:
        """Bytes of the base model on each GPU."""
        bits = memory.QUANTISED_BITS.get(self.asked.quantisation.partition("_")[0], 16)
        share = self.shape.weight_bytes * bits // 16 // (self.tensor * self.asked.pipeline)
        return max(0, share - self.asked.offloaded)

    @property
    def working(self) -> int:
        """Bytes that a step needs, estimated."""
        sequences, tokens = steps(self.gpu)
        return memory.working_bytes(
            self.shape,
            self.asked.sequences or sequences,
            self.asked.tokens or tokens,
            self.tensor,
        )

    @property
    def left(self) -> int:
        """Bytes for slots and KV cache together; below 0 if the model does not fit."""
        return self.whole - self.weights - self.working

    @property
    def most(self) -> int:
        """As `left`, were a step to need no more than `LEAST_WORKING`: beyond this nothing fits."""
        return self.whole - self.weights - LEAST_WORKING

    @property
    def slot(self) -> int:
        """Bytes of one slot on each GPU."""
        return memory.slot_bytes(self.shape, self.asked.rank, self.tensor, self.asked.pipeline)

    @property
    def place(self) -> int:
        """Host memory of one adapter, in all workers together."""
        return self.workers * memory.adapter_bytes(self.shape, self.asked.rank, pinned=True)

    @property
    def workers(self) -> int:
        """Processes that compute, each on a GPU of its own."""
        return self.tensor * self.asked.pipeline * self.asked.data

    def cache(self, slots: int) -> int:
        """Bytes of the KV cache beside so many slots."""
        return self.asked.kv_bytes or self.left - slots * self.slot

    def tokens(self, slots: int) -> int:
        """Tokens that the KV cache holds beside so many slots."""
        return max(0, self.cache(slots)) // self._token

    def most_tokens(self, slots: int) -> int:
        """As `tokens`, of `most`."""
        return max(0, self.asked.kv_bytes or self.most - slots * self.slot) // self._token

    @property
    def _token(self) -> int:
        return memory.token_bytes(
            self.shape, self.tensor, self.asked.pipeline, self.asked.kv_item_bytes
        )

    def parts(self, slots: int, places: int) -> Iterator[Part]:
        """What the memory is for."""
        yield Part("base model", self.weights, "GPU")
        yield Part(f"{slots} slots of {human(self.slot)}", slots * self.slot, "GPU")
        yield Part("a step's working memory (estimate)", self.working, "GPU")
        yield Part(f"KV cache, {self.tokens(slots):,} tokens", self.cache(slots), "GPU")
        yield Part(f"{places} adapters of {human(self.place)}", places * self.place, "host")


def steps(gpu: Gpu) -> tuple[int, int]:
    """Sequences and tokens of one step, as vLLM 0.32 sets them for a server on that GPU."""
    if gpu.memory >= 160 * GIB:
        return 1024, 16_384
    if gpu.memory >= 70 * GIB and "a100" not in gpu.name.lower():
        return 1024, 8_192
    return 256, 2_048


def human(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
