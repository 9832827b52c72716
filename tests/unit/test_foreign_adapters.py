"""Adapters as other tools write them: accepted where they ask for nothing, else truly diagnosed."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from adapters.admission import LocalFile, admit, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter
from adapters.peft_config import MAX_LISTED, declared_base
from tests.support.adapters import TINY, config, tensors, write_adapter
from tests.support.steps import steps
from tests.support.uploads import CONFIG, WEIGHTS, Bytes, configured, files, refusals

UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp).*?\.(?:q_proj|v_proj))"
    r"|(?:\bmodel\.layers\.[\d]{1,}\..*?(?:self_attn|attention|attn|mlp)\.(?:(?:q_proj|v_proj)))"
)
EVA = {"rho": 2.0, "tau": 0.99, "use_label_mask": True, "adjust_scaling_factors": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": "eva", "eva_config": EVA},
        {"init_lora_weights": "lora_ga", "lora_ga_config": {"direction": "ArB2r"}},
        {"enable_lora": None, "merge_weights": False, "fan_in_fan_out": None},
        {"from_next_year": None, "also": {}, "more": [], "empty": "", "auto_map": None},
        {"use_rslora": None, "rank_pattern": None, "alpha_pattern": None, "use_dora": None},
        {"target_modules": UNSLOTH},
        {"target_modules": "all-linear"},
        {"target_modules": "(a+)+$"},
        {"target_modules": None},
        {"target_modules": ["q_proj", "v_proj", "fc_of_another_model"]},
        {"target_modules": sorted(TINY.modules)},
        {"r": 2, "rank_pattern": dict.fromkeys(TINY.modules, 4)},
        {"r": 2, "rank_pattern": {f"^{name}": 4 for name in TINY.modules}},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": "/home/anna/models/tiny"},
        {"base_model_name_or_path": "./tiny"},
        {"base_model_name_or_path": "~/tiny"},
        {"base_model_name_or_path": r"D:\models\tiny"},
        {"base_model_name_or_path": "models/llama/tiny"},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_what_asks_for_nothing_is_admitted(changes: dict[str, Any]) -> None:
    assert refusals(configured(**changes)) == ""


def without(key: str) -> dict[str, bytes]:
    return {CONFIG: json.dumps({k: v for k, v in config().items() if k != key}).encode()}


def renamed(old: str, new: str) -> dict[str, bytes]:
    return {WEIGHTS: save({name.replace(old, new): array for name, array in tensors().items()})}


def text_of(**changes: Any) -> str:
    return json.dumps(config(**changes))


MLX = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (without("target_modules"), "target_modules"),
        (configured(bias=None), 'Set bias to "none"'),
        (configured(bias=False), 'Set bias to "none"'),
        (configured(bias=[]), 'Set bias to "none"'),
        (configured(bias="lora_only"), "trained biases"),
        (configured(r=True), "r is True"),
        (configured(r=4.0), "r is 4.0"),
        (configured(r=10**6), "r is 1000000"),
        (configured(r=10**400), "r is 1000"),
        (configured(use_rslora="false"), "use_rslora"),
        (configured(use_dora="false"), "DoRA"),
        (configured(rank_pattern={"q_proj": 256}), "above the limit of 64"),
        (configured(rank_pattern={"q_proj": 4.0}), "rank_pattern"),
        (configured(rank_pattern={"q_proj": True}), "rank_pattern"),
        (configured(rank_pattern={".*q_proj": 4}), "rank_pattern"),
        (configured(rank_pattern={"(a+)+$": 4}), "rank_pattern"),
        (configured(alpha_pattern={"q_proj": 10**400}), "alpha_pattern"),
        (configured(target_modules=["q_proj"] * (MAX_LISTED + 1)), "up to 10000"),
        (configured(target_modules=["q" * 1000]), "target_modules"),
        (configured(alpha_pattern={f"m{n}": 8 for n in range(MAX_LISTED + 1)}), "up to 10000"),
        ({CONFIG: text_of().encode("utf-16")}, "not UTF-8"),
        ({CONFIG: text_of().encode("utf-16-le")}, "not valid JSON"),
        ({CONFIG: text_of().encode("utf-32")}, "not UTF-8"),
        ({CONFIG: text_of().encode("utf-8-sig")}, "BOM"),
        ({CONFIG: text_of(lora_dropout=float("nan")).encode()}, "NaN is not JSON"),
        ({CONFIG: text_of().replace('"r"', '"lora_alpha": 1, "r"').encode()}, "twice"),
        ({CONFIG: json.dumps(MLX).encode()}, "MLX adapter"),
        ({"adapters.safetensors": b""}, "MLX adapter"),
        (renamed(".lora_A.weight", ".lora_A.default.weight"), "state_dict() was saved as it is"),
        (renamed(".lora_A.weight", ".lora_a"), "as MLX names it"),
        (renamed("layers.0.self_attn.q_proj", "lm_head"), "output or input embedding"),
    ],
    ids=lambda value: str(value)[-80:],
)
def test_what_cannot_be_served_is_diagnosed(changes: dict[str, Any], says: str) -> None:
    assert says in refusals(changes)


SEEING = BaseModel(
    "seeing",
    "4" * 64,
    {
        "visual.blocks.0.attn.proj": (16, 16),
        "model.layers.0.self_attn.q_proj": (16, 16),
        "model.layers.0.self_attn.v_proj": (16, 16),
    },
)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", "'visual.blocks.0.attn.proj' processes images or audio"),
        ("model.layers", "model.language_model.layers", "which calls it 'model.layers.0.self_attn"),
        ("model.layers", "language_model.model.layers", "which calls it 'model.layers.0.self_attn"),
    ],
)
def test_a_model_that_sees_is_adapted_in_its_text_layers_by_the_names_of_its_files(
    old: str, new: str, says: str
) -> None:
    made = tensors(SEEING)
    named = configured(base_model_name_or_path="seeing", target_modules=None)
    text = {name: array for name, array in made.items() if "visual" not in name}
    assert refusals({**named, WEIGHTS: save(text)}, SEEING) == ""
    spoilt = {name.replace(old, new) if old else name: array for name, array in made.items()}
    assert says in refusals({**named, WEIGHTS: save(spoilt)}, SEEING)


def test_another_hub_name_is_refused_and_the_remedy_names_both_ways() -> None:
    said = refusals(configured(base_model_name_or_path="meta-llama/Llama-3-8B"))
    assert "meta-llama/Llama-3-8B" in said
    assert "tiny" in said


@pytest.mark.parametrize("value", [None, ""])
def test_a_push_without_a_declared_base_has_to_name_one(value: str | None) -> None:
    with pytest.raises(InvalidAdapter, match="--base NAME"):
        declared_base(configured(base_model_name_or_path=value)[CONFIG])


def test_an_unreadable_configuration_is_diagnosed_before_its_base_is_looked_up() -> None:
    with pytest.raises(InvalidAdapter, match="not UTF-8"):
        declared_base(text_of().encode("utf-16"))


def test_names_are_compared_in_time_linear_in_modules_plus_targets() -> None:
    """What targets and patterns cost does not grow with the number of modules."""

    def cost(modules: int, listed: int) -> int:
        known = {f"model.layers.{n}.q_proj": (4, 4) for n in range(modules)}
        base = BaseModel("tiny", "0" * 64, known)
        targets = ["q_proj", *known, *(f"t{n}" for n in range(listed))]
        pattern = {f"p{n}": 8 for n in range(listed)}
        changes = configured(target_modules=targets, alpha_pattern=pattern)
        admitted = files({**changes, WEIGHTS: save(tensors(base))})
        assert admit(admitted, base).problems == ()
        return steps(lambda: admit(admitted, base))

    few, many = (cost(modules, 1_000) - cost(modules, 0) for modules in (2, 40))
    assert many <= 1.1 * few
    assert cost(400, 0) <= 11 * cost(40, 0)


def test_facts_name_the_modules_that_have_tensors_however_long_the_configuration() -> None:
    listed = ["q_proj", "v_proj", *(f"t{n}" for n in range(9_000))]
    facts = admit(files(configured(target_modules=listed)), TINY).facts
    assert facts is not None
    assert facts.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.decode().encode("utf-16-le"),
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"a":"\\ud800"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}\x00',
    ],
    ids=["UTF-16", "half a surrogate", "in the metadata", "minus zero", "NUL at the end"],
)
def test_headers_that_the_reference_reader_refuses_are_refused(header: bytes) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = len(header).to_bytes(8, "little") + header + b"\0" * 4
    with pytest.raises(SafetensorError):
        load(data)
    assert "header is not valid JSON" in refusals({WEIGHTS: Bytes(data)})


class Cache:
    """An adapter in the layout of a Hub cache: links in a snapshot to files in `blobs`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs, self.snapshot = folder / "blobs", folder / "snapshots" / "0123abcd"
        self.blobs.mkdir(parents=True)
        self.snapshot.mkdir(parents=True)
        for file in write_adapter(folder / "made").iterdir():
            file.rename(self.blobs / f"digest-of-{file.name}")
            self.link(file.name, f"../../blobs/digest-of-{file.name}")

    def link(self, name: str, target: str) -> None:
        (self.snapshot / name).symlink_to(target)


def test_a_snapshot_of_a_hub_cache_is_read_through_its_links(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.link(".gitattributes", "../../blobs/digest-of-README.md")
    found = files_in(cache.snapshot)
    assert sorted(found) == ["README.md", CONFIG, WEIGHTS]
    assert admit(found, TINY).problems == ()


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../../made",
        "../../secret",
        "../../blobs/../secret",
        "../../blobs",
        "../../blobs/missing",
        "../../blobs/link-to-secret",
    ],
)
def test_a_link_that_leaves_the_cache_is_refused(target: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "secret").write_text("x")
    (cache.blobs / "link-to-secret").symlink_to(tmp_path / "secret")
    cache.link("LICENSE", target)
    with pytest.raises(InvalidAdapter, match="LICENSE is a symbolic link"):
        files_in(cache.snapshot)


def test_a_link_in_another_folder_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x").write_text("x")
    (adapter / "LICENSE").symlink_to(tmp_path / "blobs" / "x")
    with pytest.raises(InvalidAdapter, match="symbolic link"):
        files_in(adapter)


def test_the_bookkeeping_of_downloads_is_left_out(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for name in (".cache/huggingface/download/README.md.metadata", ".git/config", ".gitattributes"):
        (adapter / name).parent.mkdir(parents=True, exist_ok=True)
        (adapter / name).write_text("x")
    assert sorted(files_in(adapter)) == ["README.md", CONFIG, WEIGHTS]
    assert isinstance(files_in(adapter)[CONFIG], LocalFile)


def write_base(
    directory: Path, weights: dict[str, np.ndarray], settings: dict[str, Any] | None = None
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(settings or {}))
    (directory / "model.safetensors").write_bytes(save(weights))
    return directory


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_norms_of_a_base_are_those_of_its_weights(kind: type, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "model.layers.0.q_proj.weight": random.normal(size=(48, 64)).astype(kind),
        "model.layers.0.huge.weight": np.full((4, 4), np.finfo(kind).max, kind),
        "model.embed_tokens.weight": random.normal(size=(9, 64)).astype(kind),
        "model.norm.weight": random.normal(size=64).astype(kind),
    }
    told: list[tuple[str, int, int]] = []
    base = BaseModel.from_directory(
        write_base(tmp_path, weights), "b", progress=lambda *moved: told.append(moved)
    )
    assert base.norms == pytest.approx(
        {
            name: float(np.linalg.norm(weights[f"{name}.weight"].astype(np.float64)))
            for name in ("model.layers.0.q_proj", "model.layers.0.huge")
        }
    )
    size = (tmp_path / "model.safetensors").stat().st_size
    assert told[-1] == ("model.safetensors", size, size)


def test_a_base_without_norms_as_it_was_stored_before_is_still_read() -> None:
    stored = b'{"name":"b","digest":"00","modules":{"q_proj":[4,4]},"known_as":["org/b"]}'
    base = msgspec.json.decode(stored, type=BaseModel)
    assert base.norms == {}
    assert base.is_called("org/b")


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("gptq", {"layers.0.q_proj.qweight": np.zeros((8, 64), np.int32)}),
        ("awq", {"layers.0.q_proj.qweight": np.zeros((64, 8), np.int32)}),
        ("bitsandbytes", {"layers.0.q_proj.weight": np.zeros((2048, 1), np.uint8)}),
        ("mxfp4", {"layers.0.experts.gate_up_proj_blocks": np.zeros((2, 4, 16), np.uint8)}),
        ("compressed-tensors", {"layers.0.q_proj.weight_packed": np.zeros((64, 8), np.int32)}),
        ("hqq", {"layers.0.q_proj.W_q": np.zeros((32, 48), np.uint8)}),
        ("aqlm", {"layers.0.q_proj.codes": np.zeros((64, 6, 1), np.int16)}),
        ("quip", {"layers.0.q_proj.Qidxs": np.zeros((64, 6), np.int16)}),
        ("bitnet", {"layers.0.q_proj.weight": np.zeros((16, 48), np.uint8)}),
    ],
)
def test_a_packed_base_is_refused_by_its_method(
    method: str, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plain = {"layers.0.gate.weight": np.ones((4, 4), np.float32)}
    settings = {"quantization_config": {"quant_method": method}}
    directory = write_base(tmp_path, {**plain, **weights}, settings)
    with pytest.raises(InvalidAdapter, match=rf"quantised \({method}\).*--known-as"):
        BaseModel.from_directory(directory, "b")


def test_a_base_without_a_linear_module_is_refused_by_its_method(tmp_path: Path) -> None:
    weights = {"layers.0.q_proj.packed_by_next_year": np.zeros((64, 8), np.int32)}
    settings = {"quantization_config": {"quant_method": "of-next-year"}}
    with pytest.raises(InvalidAdapter, match=r"quantised \(of-next-year\).*--known-as"):
        BaseModel.from_directory(write_base(tmp_path, weights, settings), "b")


@pytest.mark.parametrize(("dtype", "size"), [("F4", 24), ("F6_E2M3", 36), ("F8_E8M0", 48)])
def test_a_base_of_the_narrowest_floats_is_refused_by_its_method(
    dtype: str, size: int, tmp_path: Path
) -> None:
    entry = {"dtype": dtype, "shape": [6, 8], "data_offsets": [0, size]}
    header = json.dumps({"layers.0.q_proj.weight": entry}).encode()
    directory = write_base(tmp_path, {}, {"quantization_config": {"quant_method": "nvfp4"}})
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    (directory / "model.safetensors").write_bytes(data)
    with pytest.raises(InvalidAdapter, match=r"quantised \(nvfp4\).*--known-as"):
        BaseModel.from_directory(directory, "b")


def test_a_base_with_weights_of_8_bits_has_shapes_and_no_norms(tmp_path: Path) -> None:
    weights = {"layers.0.q_proj.weight": np.ones((64, 48), np.int8)}
    base = BaseModel.from_directory(write_base(tmp_path, weights), "b")
    assert base.modules == {"layers.0.q_proj": (64, 48)}
    assert base.norms == {}
