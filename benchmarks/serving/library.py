"""Many adapters for the small model: published in a registry on S3, and as local directories.

Weights of rank 16 (19.5 MB in float32) are random. Ten thousand of them would be 195 GB, so those
of the library share eight files of weights; each has its own `lora_alpha`, so that each is another
adapter: other outputs, another digest, downloaded and loaded on its own.
They are published by direct commands, past admission, many to a commit.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from adapters.admission import CONFIG, WEIGHTS, Facts
from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from registry.model.aliases import MoveAlias
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.publish.publishing import register_base
from registry.registry import Registry
from registry.store import open_store
from registry.store.blobs import Blobs, content_digest
from tests.support.adapters import config, tensors
from tests.support.s3 import BUCKET, S3Server

DOMAIN = "library"
RANK = 16
SHARED_WEIGHTS = 8
ALPHAS = 20_000
FACTS = Facts(
    rank=RANK, alpha=RANK, rslora=False, target_modules=("q_proj",), parameters=1, tensors=1
)


@dataclass(frozen=True, slots=True)
class Fresh:
    """An adapter with weights of its own: published, and in a local directory."""

    name: str
    files: tuple[File, ...]
    directory: Path


class Library:
    """The registry's store, its operator's key, and adapters by number."""

    def __init__(self, folder: Path, s3: S3Server) -> None:
        build(default_model())
        self.folder = folder
        self.url = f"s3://{BUCKET}/bench"
        self.store = open_store(self.url, s3_endpoint=s3.endpoint)
        self.base = BaseModel.from_directory(default_model(), SMALL_MODEL)
        self.key = Registry.create(self.store, name="bench", key_name="bench")
        self.blobs = Blobs(self.store)
        self.registry = Registry(self.store)
        register_base(self.registry, self.base, self.key.id)
        self.registry.execute(CreateDomain(DOMAIN, Policy(guarded=())), self.key.id)
        self.size = 0
        self._own = 0
        self._weights = self._share_weights()

    @property
    def headers(self) -> dict[str, str]:
        """How a caller authenticates."""
        return {"Authorization": f"Bearer {self.key.text}"}

    def name(self, number: int) -> str:
        """The pinned name of the library's adapter `number`."""
        return f"{DOMAIN}/a{number}@1"

    def grow(self, size: int) -> int:
        """Publish until there are `size`; returns the registry's last commit."""
        with ThreadPoolExecutor(64) as pool:
            list(pool.map(self._publish, range(self.size, size)))
        self.size = max(size, self.size)
        return self.registry.catalog.sequence

    def name_production(self, count: int) -> int:
        """Let `production` name the first `count` adapters' versions; returns the last commit."""
        self.grow(count)
        for number in range(count):
            self.registry.execute(MoveAlias(DOMAIN, f"a{number}", "production", 1), self.key.id)
        return self.registry.catalog.sequence

    def local(self, number: int) -> Path:
        """The library's adapter `number` as a directory."""
        directory = self.folder / "local" / f"a{number}"
        if not directory.exists():
            directory.mkdir(parents=True)
            shared = self.folder / f"weights{number % SHARED_WEIGHTS}.safetensors"
            (directory / WEIGHTS).hardlink_to(shared)
            (directory / CONFIG).write_bytes(self._config(number))
        return directory

    def fresh(self) -> Fresh:
        """Publish an adapter whose weights nobody else has."""
        number = self._own
        self._own += 1
        weights = save(tensors(self.base, rank=RANK, seed=1000 + number))
        described = self._config(ALPHAS - 1 - number)
        files = (
            File(CONFIG, len(described), self.blobs.put_bytes(described)),
            File(WEIGHTS, len(weights), self.blobs.put_bytes(weights)),
        )
        self._command(f"own{number}", files)
        directory = self.folder / "local" / f"own{number}"
        directory.mkdir(parents=True)
        (directory / WEIGHTS).write_bytes(weights)
        (directory / CONFIG).write_bytes(described)
        return Fresh(f"{DOMAIN}/own{number}@1", files, directory)

    def _share_weights(self) -> list[File]:
        """Store the files of weights that all share, here and in the registry."""
        made = []
        for seed in range(SHARED_WEIGHTS):
            data = save(tensors(self.base, rank=RANK, seed=seed))
            (self.folder / f"weights{seed}.safetensors").write_bytes(data)
            made.append(File(WEIGHTS, len(data), self.blobs.put_bytes(data)))
        return made

    def _publish(self, number: int) -> None:
        described = self._config(number)
        listed = File(CONFIG, len(described), self.blobs.put_bytes(described))
        self._command(f"a{number}", (listed, self._weights[number % SHARED_WEIGHTS]))

    def _command(self, adapter: str, files: tuple[File, ...]) -> None:
        digest = content_digest(files)
        command = PublishVersion(DOMAIN, adapter, digest, SMALL_MODEL, files, FACTS)
        self.registry.execute(command, self.key.id)

    def _config(self, number: int) -> bytes:
        """PEFT's configuration, its alpha between 8 and 16 by number."""
        targets = sorted({module.rpartition(".")[2] for module in self.base.modules})
        described = config(
            base_model_name_or_path=SMALL_MODEL,
            r=RANK,
            target_modules=targets,
            lora_alpha=8 + 8 * number / ALPHAS,
        )
        return json.dumps(described).encode()


def zipf(size: int, count: int, seed: int) -> list[int]:
    """`count` adapters out of `size`, the k-th asked for in proportion to 1/k."""
    shares = 1 / np.arange(1, size + 1)
    chosen = np.random.default_rng(seed).choice(size, count, p=shares / shares.sum())
    return [int(number) for number in chosen]
