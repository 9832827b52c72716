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
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
case $requirements in
    *gpu.txt) size="about 10 GB" ;;
    *dev.txt) size="about 0.4 GB" ;;
    *) size="about 4 GB" ;;
esac
echo "Installing $(grep -c '^[^#].*==' "$requirements") pinned packages ($size) into $venv ..."
# Packages are unpacked in parallel by uv, which knows pip's folder of wheels (PIP_FIND_LINKS) only if
# it is given it. Where uv does not succeed, pip does the same with all its settings.
# --no-deps: the list is complete. That for CPUs leaves out torchvision, torchaudio and torchcodec,
# whose usual builds break the CPU build of torch.
# --no-compile: Python compiles what is imported when it is; all files would take three minutes.
pip() { "$venv/bin/pip" install --quiet --no-compile --no-deps --requirement "$requirements" "$@"; }
[ -x "$venv/bin/uv" ] ||
    "$venv/bin/pip" install --quiet --no-compile --no-deps "$(grep '^uv==' "$requirements")"
# shellcheck disable=SC2086 # several folders may be given, as pip takes them
"$venv/bin/uv" pip install --quiet --no-deps --python "$venv/bin/python" \
    $(for folder in ${PIP_FIND_LINKS:-}; do echo "--find-links $folder"; done) \
    --requirement "$requirements" 2>/dev/null && exit 0
pip && exit 0
case $requirements in *gpu.txt) exit 1 ;; esac
echo "Trying again with PyTorch's own index for the CPU build of torch ..." >&2
pip --extra-index-url https://download.pytorch.org/whl/cpu
