"""A machine on which nothing can work is refused before anything is downloaded."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AVX512, AVX2, OLD = "flags : avx avx2 avx512f\n", "flags : avx avx2\n", "flags : sse4_2 avx\n"


def check(
    folder: Path,
    *,
    system: str = "Linux",
    machine: str = "x86_64",
    flags: str = AVX2,
    gib: int = 16,
    requirements: str = "requirements/cpu.txt",
    **settings: str,
) -> subprocess.CompletedProcess[str]:
    """Run the check on a machine like that."""
    programs = folder / "bin"
    programs.mkdir()
    uname = programs / "uname"
    uname.write_text(f'#!/bin/sh\n[ "$1" = -s ] && echo {system} || echo {machine}\n')
    uname.chmod(0o755)
    df = programs / "df"
    df.write_text("#!/bin/sh\necho header\necho x 0 0 99999999 0 /\n")
    df.chmod(0o755)
    (folder / "cpuinfo").write_text(flags)
    (folder / "meminfo").write_text(f"MemTotal: {gib << 20} kB\n")
    return subprocess.run(
        ["sh", "scripts/check-machine.sh", requirements, folder / "cpuinfo", folder / "meminfo"],
        cwd=ROOT, env={"PATH": f"{programs}:{os.environ['PATH']}", **settings},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("flags", [AVX2, AVX512])
def test_a_processor_with_avx2_is_enough(flags: str, tmp_path: Path) -> None:
    done = check(tmp_path, flags=flags)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"machine": "aarch64"}, "arm64"),
        ({"machine": "riscv64"}, "riscv64"),
        ({"system": "Darwin"}, "Linux"),
        ({"flags": OLD}, "AVX2"),
        ({"gib": 4}, "4 GiB of memory"),
    ],
)
def test_a_machine_that_cannot_work_is_refused_with_what_is_missing(
    machine: dict[str, str], words: str, tmp_path: Path
) -> None:
    done = check(tmp_path, **machine)  # type: ignore[arg-type]
    assert done.returncode == 1
    assert words in done.stderr
    assert "pip install ." in done.stderr


def test_arm64_can_be_tried(tmp_path: Path) -> None:
    done = check(tmp_path, machine="aarch64", flags="Features : asimd\n", LORARY_TRY_ARM64="1")
    assert done.returncode == 0, done.stderr


def test_a_gpu_server_needs_no_avx2(tmp_path: Path) -> None:
    assert check(tmp_path, flags=OLD, requirements="requirements/gpu.txt").returncode == 0


def test_the_check_comes_before_the_installation() -> None:
    script = (ROOT / "scripts" / "install.sh").read_text()
    assert script.index("check-machine.sh") < script.index("-m venv")
