"""A machine on which nothing can work is refused before anything is downloaded."""

import os
import shutil
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


PYTHON = """#!/bin/sh
# Stands for Python, with venv and pip; says what it is asked, and does what the test lets it.
echo "$(basename "$0") $*" >>"$LOG"
case "$*" in
    -c*) [ -z "${OLD:-}" ] ;;
    "-m venv --clear "*) shift 3; rm -rf "$1"; mkdir -p "$1/bin"; cp "$0" "$1/bin/python"; : >"$1/pyvenv.cfg" ;;
    "-m venv "*) shift 2; mkdir -p "$1/bin"; cp "$0" "$1/bin/python"; : >"$1/pyvenv.cfg" ;;
    "-m pip install "*uv==*) [ -z "${NO_UV:-}" ] && cp "$UV" "$(dirname "$0")/uv" ;;
    "-m pip install "*) [ -z "${NO_PIP:-}" ] ;;
esac
"""  # noqa: E501
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
[ -z "${KILLED:-}" ] || kill -9 "$PPID"
[ -z "${UV_FAILS:-}" ]
"""


class Site:
    """A folder with a space in its name where `install.sh` runs, its Python, pip and uv made up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "my project"
        scripts = self.folder / "scripts"
        scripts.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "install.sh", scripts)
        for name, text in (("check-machine.sh", ""), ("python3.11", PYTHON), ("uv", UV)):
            (scripts / name).write_text(text)
            (scripts / name).chmod(0o755)
        (self.folder / "pins.txt").write_text("msgspec==0.22.0\nuv==0.13.9\n")
        self.venv = self.folder / "the venv"
        self.log = self.folder / "log"

    def install(self, **settings: str) -> tuple[int, list[str]]:
        """Its exit status, and what was asked of the programs."""
        self.log.write_text("")
        scripts = self.folder / "scripts"
        done = subprocess.run(
            ["sh", scripts / "install.sh", scripts / "python3.11", self.venv, "pins.txt"],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "LOG": str(self.log), "UV": str(scripts / "uv"),
                 **settings},
        )  # fmt: skip
        return done.returncode, self.log.read_text().splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_packages_are_installed_by_uv_and_where_it_fails_by_pip(site: Site) -> None:
    assert site.install()[0] == 0
    status, asked = site.install()
    assert (status, asked[-1].split()[:3]) == (0, ["uv", "pip", "install"])
    assert "reinstall" not in asked[-1]
    for fails in ({"UV_FAILS": "1"}, {"NO_UV": "1"}):
        if "NO_UV" in fails:
            shutil.rmtree(site.venv)
        status, asked = site.install(**fails)
        assert (status, asked[-1].split()[:4]) == (0, ["python", "-m", "pip", "install"])
        assert asked[-1].endswith("--requirement pins.txt")
    assert site.install(UV_FAILS="1", NO_PIP="1")[0] != 0


def test_what_an_interrupted_installation_left_in_part_is_installed_again(site: Site) -> None:
    assert site.install(KILLED="1")[0] != 0
    assert "--reinstall" in site.install(UV_FAILS="1", NO_PIP="1")[1][-3]
    status, asked = site.install()
    assert (status, "--reinstall" in asked[-1]) == (0, True)
    assert "--reinstall" not in site.install()[1][-1]


def test_an_environment_whose_python_is_gone_is_made_anew(site: Site) -> None:
    site.install()
    for broken in (site.venv / "bin" / "python", site.venv / "bin"):
        shutil.rmtree(broken) if broken.is_dir() else broken.write_text("#!/gone/python\n")
        status, asked = site.install()
        assert (status, f"python3.11 -m venv --clear {site.venv}" in asked) == (0, True)
    # A folder that is no environment loses nothing.
    shutil.rmtree(site.venv)
    site.venv.mkdir()
    (site.venv / "thesis.txt").write_text("")
    assert site.install()[0] == 0
    assert (site.venv / "thesis.txt").exists()


def test_a_python_that_is_too_old_installs_nothing(site: Site) -> None:
    status, asked = site.install(OLD="1")
    assert (status, len(asked), site.venv.exists()) == (1, 1, False)


def test_uv_asks_the_index_that_pip_is_configured_with_or_none_as_pip_does(site: Site) -> None:
    mirror = "https://mirror.example/simple"
    assert f"--default-index {mirror}" in site.install(PIP_INDEX_URL=mirror)[1][-1]
    assert "--no-index" in site.install(PIP_NO_INDEX="1")[1][-1]
    folders = site.install(PIP_FIND_LINKS="/a /b")[1][-1]
    assert "--find-links /a --find-links /b" in folders
    assert "--default-index" not in folders
    assert "--no-index" not in folders
