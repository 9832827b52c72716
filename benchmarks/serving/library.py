"""Many adapters: published in a registry, and as local directories that bare vLLM reads.

Weights are random. Ten thousand files of them would be hundreds of gigabytes, so the adapters of a
kind share eight; each has its own `lora_alpha`, so that each is another adapter: other outputs,
another digest, downloaded and loaded on its own. They are published by direct commands, past
admission, many to a commit.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save

from adapters.admission import CONFIG, WEIGHTS, Facts
from benchmarks.serving.setting import Setting
from registry.model.aliases import MoveAlias
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.publish.publishing import register_base
from registry.registry import Registry
from registry.store import open_store
from registry.store.blobs import Blobs, content_digest
from tests.support.adapters import config

DOMAIN = "library"
SHARED_WEIGHTS = 8
ALPHAS = 20_000
FACTS = Facts(rank=16, alpha=16, rslora=False, target_modules=("q_proj",), parameters=1, tensors=1)

Kind = Literal["large", "small"]
KINDS: dict[Kind, tuple[int, tuple[str, ...]]] = {"large": (16, ()), "small": (8, ("q", "v"))}
"""Rank, and the beginnings of the modules that it has; () for all."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """An adapter that nobody has asked for: published, and in a local directory."""

    name: str
    files: tuple[File, ...]
    directory: Path

    @property
    def megabytes(self) -> float:
        """Of its files."""
        return sum(file.size for file in self.files) / 1e6


class Library:
    """The registry's store, its operator's key, and adapters of a kind by number."""

    def __init__(self, folder: Path, url: str, setting: Setting, *, s3: str | None = None) -> None:
        """url: of the store; s3: the endpoint, if it is on S3."""
        self.folder, self.url, self.setting = folder, url, setting
        self.store = open_store(url, s3_endpoint=s3)
        self.key = Registry.create(self.store, name="bench", key_name="bench")
        self.blobs = Blobs(self.store)
        self.registry = Registry(self.store)
        register_base(self.registry, setting.base, self.key.id)
        self.registry.execute(CreateDomain(DOMAIN, Policy(guarded=())), self.key.id)
        self.sizes: dict[Kind, int] = {"large": 0, "small": 0}
        self._fresh = 0
        self._weights: dict[Kind, list[File]] = {}

    @property
    def headers(self) -> dict[str, str]:
        """How a caller authenticates."""
        return {"Authorization": f"Bearer {self.key.text}"}

    @property
    def local_folder(self) -> Path:
        """Where the local directories lie: one for each name, as vLLM's resolver looks them up."""
        return self.folder / "local"

    def name(self, number: int, kind: Kind = "large") -> str:
        """The pinned name of the kind's adapter `number`."""
        return f"{DOMAIN}/{kind}{number}@1"

    def grow(self, size: int, kind: Kind = "large") -> int:
        """Publish until there are `size`; returns the registry's last commit."""
        self._shared(kind)
        with ThreadPoolExecutor(64) as pool:
            list(pool.map(lambda n: self._publish(n, kind), range(self.sizes[kind], size)))
        self.sizes[kind] = max(size, self.sizes[kind])
        return self.registry.catalog.sequence

    def name_production(self, count: int) -> int:
        """Let `production` name the first `count` adapters' versions; returns the last commit."""
        self.grow(count)
        for number in range(count):
            self.registry.execute(MoveAlias(DOMAIN, f"large{number}", "production", 1), self.key.id)
        return self.registry.catalog.sequence

    def local(self, number: int, kind: Kind = "large") -> Path:
        """The kind's adapter `number` as a directory."""
        directory = self.local_folder / self.name(number, kind)
        if not directory.exists():
            directory.mkdir(parents=True)
            self._shared(kind)
            (directory / WEIGHTS).hardlink_to(self._file(kind, number % SHARED_WEIGHTS))
            (directory / CONFIG).write_bytes(self._config(number, kind, str(self.setting.model)))
        return directory

    def fresh(self, kind: Kind = "large") -> Fresh:
        """Publish an adapter whose weights nobody else has."""
        self._fresh += 1
        weights = save(self._tensors(kind, 1000 + self._fresh))
        number = ALPHAS - self._fresh
        described = self._config(number, kind, self.setting.base.name)
        files = (
            File(CONFIG, len(described), self.blobs.put_bytes(described)),
            File(WEIGHTS, len(weights), self.blobs.put_bytes(weights)),
        )
        self._command(f"{kind}{number}", files)
        directory = self.local_folder / self.name(number, kind)
        directory.mkdir(parents=True)
        (directory / WEIGHTS).write_bytes(weights)
        (directory / CONFIG).write_bytes(self._config(number, kind, str(self.setting.model)))
        return Fresh(self.name(number, kind), files, directory)

    def _shared(self, kind: Kind) -> list[File]:
        """The files of weights that a kind's adapters share, here and in the registry."""
        if kind not in self._weights:
            with ThreadPoolExecutor(4) as pool:
                made = pool.map(lambda seed: self._share(kind, seed), range(SHARED_WEIGHTS))
                self._weights[kind] = list(made)
        return self._weights[kind]

    def _share(self, kind: Kind, seed: int) -> File:
        data = save(self._tensors(kind, seed))
        self._file(kind, seed).write_bytes(data)
        return File(WEIGHTS, len(data), self.blobs.put_bytes(data))

    def _file(self, kind: Kind, seed: int) -> Path:
        return self.folder / f"{kind}{seed}.safetensors"

    def _publish(self, number: int, kind: Kind) -> None:
        described = self._config(number, kind, self.setting.base.name)
        listed = File(CONFIG, len(described), self.blobs.put_bytes(described))
        weights = self._shared(kind)[number % SHARED_WEIGHTS]
        self._command(f"{kind}{number}", (listed, weights))

    def _command(self, adapter: str, files: tuple[File, ...]) -> None:
        digest = content_digest(files)
        command = PublishVersion(DOMAIN, adapter, digest, self.setting.base.name, files, FACTS)
        self.registry.execute(command, self.key.id)

    def _modules(self, kind: Kind) -> Iterator[tuple[str, tuple[int, int]]]:
        chosen = KINDS[kind][1]
        for module, size in self.setting.base.modules.items():
            if not chosen or module.rpartition(".")[2].startswith(chosen):
                yield module, size

    def _tensors(self, kind: Kind, seed: int) -> dict[str, np.ndarray]:
        """Both factors random, so that the adapter changes answers; in the model's 16 bits."""
        rank = KINDS[kind][0]
        random = np.random.default_rng(seed)
        made = {}
        for module, (out, into) in self._modules(kind):
            numbers = random.standard_normal((out + into) * rank, np.float32) * np.float32(0.02)
            name = f"base_model.model.{module}"
            half = numbers.astype(np.float16)
            made[f"{name}.lora_A.weight"] = half[: into * rank].reshape(rank, into)
            made[f"{name}.lora_B.weight"] = half[into * rank :].reshape(out, rank)
        return made

    def _config(self, number: int, kind: Kind, base: str) -> bytes:
        """PEFT's configuration, its alpha between 8 and 16 by number."""
        targets = sorted({module.rpartition(".")[2] for module, _ in self._modules(kind)})
        described = config(
            base_model_name_or_path=base,
            r=KINDS[kind][0],
            target_modules=targets,
            lora_alpha=8 + 8 * number / ALPHAS,
        )
        return json.dumps(described).encode()


def zipf(size: int, count: int, seed: int) -> list[int]:
    """`count` adapters out of `size`, the k-th asked for in proportion to 1/k."""
    shares = 1 / np.arange(1, size + 1)
    chosen = np.random.default_rng(seed).choice(size, count, p=shares / shares.sum())
    return [int(number) for number in chosen]
