"""Whether hostile files may become a version. Nothing in them is ever executed.

`admit` reports every problem at once, each with its remedy, and never raises for what is in the
files. It reads weights in pieces, so its memory does not grow with their size.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Protocol

import msgspec
from annotated_types import MaxLen

from adapters.base_model import BaseModel
from adapters.card import MAX_CARD_BYTES, parse_card
from adapters.errors import InvalidAdapter
from adapters.fields import Count, Digest, Finite, ShortText
from adapters.heads import LABELS, MAX_LABELS_BYTES, Head, parse_labels
from adapters.peft_config import MAX_CONFIG_BYTES, LoraConfig, parse_config
from adapters.spectra import Spectrum

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
REQUIRED = (CONFIG, WEIGHTS, CARD)
SIGNATURE = "model.sig"
PROVENANCE = "provenance.json"
CURVE = "training.png"
OPTIONAL = (
    PROVENANCE, SIGNATURE, "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", CURVE, LABELS
)  # fmt: skip
_BOOKKEEPING = (".git/", ".gitattributes", ".gitignore", ".cache/huggingface/")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
_ARCHIVES = (".zip", ".tar", ".gz", ".bz2", ".xz", ".7z", ".zst")
_PART = re.compile(r"adapter_model-\d+-of-\d+\.safetensors|adapter_model\.safetensors\.index\.json")
_CODE = (".py", ".pyc", ".so", ".sh", ".ipynb", ".jinja")


class AdapterFile(Protocol):
    """A file whose content can be read more than once."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def open(self) -> IO[bytes]:
        """A seekable binary stream at the file's start; the caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on disk."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    def open(self) -> IO[bytes]:
        """The file, opened for reading."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one file, and what to do about it."""

    file: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem} {self.remedy}"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What admission measured of a version's bytes."""

    rank: Count
    alpha: Finite
    rslora: bool
    target_modules: Annotated[tuple[ShortText, ...], MaxLen(2000)]
    parameters: Count
    tensors: Count
    weights: Digest | None = None
    """SHA-256 of the tensors' names, types, shapes and bytes; None in versions of earlier logs."""
    head: Head | None = None
    """The classification head; None of an adapter that writes answers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is accepted."""

    max_rank: int = 64
    max_labels: int = 1000
    """Rows of a classification head."""
    max_files: int = 32
    max_file_bytes: int = 2 << 30
    max_small_file_bytes: int = 4 << 20
    """For every file but the weights."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer: facts if admitted, else every problem."""

    problems: tuple[Problem, ...]
    facts: Facts | None
    modules: Mapping[str, Spectrum] = field(default_factory=dict)
    """The spectrum of each module's update."""


DEFAULT_LIMITS = Limits()


def files_in(directory: Path) -> dict[str, AdapterFile]:
    """Every regular file below `directory` by its relative path.

    Leaves out the bookkeeping of git and of Hub downloads. In a snapshot of a Hub cache
    (`.../snapshots/REVISION`), links to files in the cache's own `blobs` folder are followed.
    Raises `InvalidAdapter` if it is no directory, or holds any other symbolic link.
    """
    if not directory.is_dir():
        raise InvalidAdapter(f"There is no directory {directory}. Name the one that PEFT saved to.")
    root = directory.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    files: dict[str, AdapterFile] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith(_BOOKKEEPING):
            continue
        if path.is_symlink() and not (path.is_file() and path.resolve().parent == blobs):
            raise InvalidAdapter(f"{name} is a symbolic link. Replace it by the file itself.")
        if path.is_file():
            files[name] = LocalFile(path)
    return files


def admit(
    files: Mapping[str, AdapterFile],
    base: BaseModel,
    *,
    limits: Limits = DEFAULT_LIMITS,
    card_sections: Sequence[str] = (),
) -> Admission:
    """Judge the files of one version, declared against `base`."""
    from adapters.weights import Tensors, check_weights  # brings in numpy, which few commands need

    problems = [*_check_names(files, limits), *_check_sizes(files, limits)]
    readable = {p for p in files if not any(problem.file == p for problem in problems)}
    if CARD in readable:
        problems += _check_card(_read(files[CARD], MAX_CARD_BYTES + 1), card_sections)
    config: LoraConfig | None = None
    if CONFIG in readable:
        config, found = parse_config(_read(files[CONFIG], MAX_CONFIG_BYTES + 1))
        problems += [Problem(CONFIG, finding.problem, finding.remedy) for finding in found]
    if config is not None:
        problems += _check_config(config, base, limits)
    facts, tensors = None, Tensors()
    if WEIGHTS in readable:
        with files[WEIGHTS].open() as stream:
            tensors, weights = check_weights(
                stream,
                files[WEIGHTS].size,
                base,
                config,
                max_rank=limits.max_rank,
                max_labels=limits.max_labels,
            )
        problems += [Problem(WEIGHTS, finding.problem, finding.remedy) for finding in weights]
        labels, unnamed = _labels(files.get(LABELS), tensors.head)
        problems += unnamed
        if config is not None and not problems:
            facts = Facts(
                rank=config.max_rank,
                alpha=config.alpha,
                rslora=config.rslora,
                target_modules=tuple(sorted({m.rpartition(".")[2] for m in tensors.modules})),
                parameters=tensors.parameters,
                tensors=tensors.count,
                weights=tensors.digest,
                head=Head(size=tensors.head, labels=labels) if tensors.head else None,
            )
    return Admission(tuple(problems), facts, tensors.modules)


def _check_names(files: Mapping[str, AdapterFile], limits: Limits) -> list[Problem]:
    problems = [
        Problem(name, "The file is missing.", _remedy_missing(name, files))
        for name in REQUIRED
        if name not in files
    ]
    if len(files) > limits.max_files:
        problems.append(
            Problem(
                ".",
                f"There are {len(files)} files, above the limit of {limits.max_files}.",
                f"Keep only {', '.join(REQUIRED)}.",
            )
        )
    for name in list(files)[: limits.max_files]:
        problem = _name_problem(name)
        if problem is not None:
            problems.append(Problem(_shown(name), *problem))
    return problems


_REMEDY_MISSING = {
    CONFIG: "Save the adapter with PEFT's save_pretrained.",
    WEIGHTS: "Save the adapter with save_pretrained(..., safe_serialization=True).",
    CARD: "Add a model card that says what the adapter is for and what it must not be used for.",
}


def _remedy_missing(name: str, files: Mapping[str, AdapterFile]) -> str:
    """What to do about it; PEFT saves an adapter not called `default` in a folder of its own."""
    below = next((path for path in files if path.endswith(f"/{name}")), None)
    if below is None:
        return _REMEDY_MISSING[name]
    return f"Push the folder that holds {_shown(below)}."


def _name_problem(name: str) -> tuple[str, str] | None:
    """Problem and remedy of a file name, or None if the name is accepted."""
    if name in REQUIRED or name in OPTIONAL:
        return None
    parts = name.replace("\\", "/").split("/")
    lower = name.lower()
    if ".." in parts or name.startswith(("/", "~")) or "\\" in name or ":" in name or "\0" in name:
        return "The name leads out of the adapter's directory.", "Use plain file names."
    if lower.endswith(("adapters.safetensors", "adapters.npz")):
        return "It is an MLX adapter.", "Convert it to PEFT's format, and leave this file out."
    if _PART.fullmatch(lower):
        return "It is one of several parts of the weights.", f"Save them as one file, {WEIGHTS}."
    if lower.endswith(_PICKLES):
        return (
            "It is a pickle or another format that can run code when it is loaded.",
            "Save the weights as safetensors, and leave out optimizer and training state.",
        )
    if lower.endswith(_ARCHIVES):
        return "It is an archive, which is never unpacked here.", "Leave it out."
    if lower.endswith(_CODE):
        return "It is code or a template, which is never run here.", "Leave it out."
    if "tokenizer" in lower or "token" in lower or "vocab" in lower or "merges" in lower:
        return "It is part of a tokenizer; the base model's is used.", "Leave it out."
    if "/" in name:
        return "It lies in a subdirectory.", "Leave it out, or put the adapter's files at the top."
    allowed = ", ".join([*REQUIRED, *OPTIONAL])
    return "Files of this name are not accepted.", f"Leave it out. Accepted are {allowed}."


def _check_sizes(files: Mapping[str, AdapterFile], limits: Limits) -> list[Problem]:
    problems = []
    for name, file in files.items():
        if name not in REQUIRED and name not in OPTIONAL:
            continue
        limit = limits.max_file_bytes if name == WEIGHTS else limits.max_small_file_bytes
        if file.size > limit:
            problems.append(
                Problem(
                    name,
                    f"It has {file.size} bytes, above the limit of {limit}.",
                    "Lower the rank or train fewer modules." if name == WEIGHTS else "Shorten it.",
                )
            )
    return problems


def _check_card(data: bytes, sections: Sequence[str]) -> list[Problem]:
    try:
        card = parse_card(data)
    except InvalidAdapter as error:
        return [Problem(CARD, error.message, "Write it as Markdown with plain YAML at its top.")]
    return [
        Problem(CARD, f"The section {section!r} is missing.", "Add it: the domain requires it.")
        for section in card.missing(tuple(sections))
    ]


def _check_config(config: LoraConfig, base: BaseModel, limits: Limits) -> list[Problem]:
    problems = []
    if config.max_rank > limits.max_rank:
        problems.append(
            Problem(
                CONFIG,
                f"The rank is {config.max_rank}, above the limit of {limits.max_rank}.",
                f"Train with r of {limits.max_rank} or less.",
            )
        )
    if config.base and not _is_local(config.base) and not base.is_called(config.base):
        problems.append(
            Problem(
                CONFIG,
                f"It was made for base model {config.base[:120]!r}, not {base.name!r}.",
                f"Publish it against its own base; or, if the weights are the same, set "
                f"base_model_name_or_path to {base.name!r}, or let an operator add the name with "
                "lorary base add --known-as.",
            )
        )
    return problems


def _labels(file: AdapterFile | None, size: int) -> tuple[tuple[str, ...], list[Problem]]:
    """The labels of a head of `size` rows, and what is wrong with the file that names them."""
    remedy = "Write a JSON list with one name for each row of the head."
    if not size:
        said = Problem(LABELS, "The adapter has no classification head.", "Leave the file out.")
        return (), [] if file is None else [said]
    try:
        return parse_labels(None if file is None else _read(file, MAX_LABELS_BYTES + 1), size), []
    except InvalidAdapter as error:
        return (), [Problem(LABELS, error.message, remedy)]


def _is_local(declared: str) -> bool:
    """Whether a declared base is a path on its trainer's machine, which identifies no model."""
    return (
        declared.startswith(("/", ".", "~"))
        or "\\" in declared
        or declared[1:2] == ":"
        or declared.count("/") > 1
    )


def _read(file: AdapterFile, limit: int) -> bytes:
    with file.open() as stream:
        return stream.read(limit)


def _shown(name: str) -> str:
    """A hostile name, fit for a message."""
    text = name.encode("unicode_escape").decode()
    return text if len(text) <= 100 else text[:97] + "..."
