#!/bin/sh
# Make a virtual environment and install a complete list of pins into it.
# usage: install.sh PYTHON VENV REQUIREMENTS
set -eu
python=$1 venv=$2 requirements=$3

sh "$(dirname "$0")/check-machine.sh" "$requirements"
command -v "$python" >/dev/null 2>&1 || {
    echo "$python is not installed. Install Python 3.11 with its venv module, or name another: make PYTHON=python3" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is older than Python 3.11, which Lorary needs. Name another: make PYTHON=python3.11" >&2
    exit 1
}
# An environment whose Python is gone, by an upgrade of the system, is made anew. pip is never run as a program: its
# first line names the folder in which the environment was made, which may be another one by now.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || {
    clear=
    [ ! -e "$venv/pyvenv.cfg" ] || clear=--clear
    "$python" -m venv $clear "$venv"
}
case $requirements in
    *gpu.txt) size="about 10 GB" ;;
    *dev.txt) size="about 0.4 GB" ;;
    *) size="about 4 GB" ;;
esac
echo "Installing $(grep -c '^[^#].*==' "$requirements") pinned packages ($size) into $venv ..."
# Packages are unpacked in parallel by uv, which knows pip's folder of wheels (PIP_FIND_LINKS) only if
# it is given it, and its index likewise. Where uv does not succeed, pip does the same with all its settings.
# --no-deps: the list is complete. That for CPUs leaves out torchvision, torchaudio and torchcodec,
# whose usual builds break the CPU build of torch.
# --no-compile: Python compiles what is imported when it is; all files would take three minutes.
# An installation that was interrupted may have left packages in part, which look complete: all are installed again.
unfinished=$venv/.unfinished again_uv='' again_pip=''
if [ -e "$unfinished" ]; then again_uv=--reinstall again_pip=--force-reinstall; fi
: >"$unfinished"
finish() { rm -f "$unfinished" && exit 0; }
pip() {
    # shellcheck disable=SC2086 # nothing, or one option
    "$venv/bin/python" -m pip install --quiet --no-compile --no-deps $again_pip "$@"
}
config() { "$venv/bin/python" -m pip config get "$1" 2>/dev/null || true; }
index=${PIP_INDEX_URL:-$(config install.index-url)}
index=${index:-$(config global.index-url)}
uv=$(grep '^uv==' "$requirements" || true)
[ -x "$venv/bin/uv" ] || [ -z "$uv" ] || pip "$uv" || echo "uv is not to be had. Going on with pip ..." >&2
# shellcheck disable=SC2086,SC2046 # several folders may be given, as pip takes them
[ -x "$venv/bin/uv" ] && "$venv/bin/uv" pip install --quiet --no-deps --python "$venv/bin/python" \
    $(for folder in ${PIP_FIND_LINKS:-}; do echo "--find-links $folder"; done) \
    ${index:+--default-index "$index"} ${PIP_NO_INDEX:+--no-index} $again_uv \
    --requirement "$requirements" 2>/dev/null && finish
pip --requirement "$requirements" && finish
case $requirements in *gpu.txt) exit 1 ;; esac
echo "Trying again with PyTorch's own index for the CPU build of torch ..." >&2
pip --requirement "$requirements" --extra-index-url https://download.pytorch.org/whl/cpu && finish
exit 1
