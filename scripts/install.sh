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
    *) size="about 4 GB" ;;
esac
echo "Installing $(grep -c '^[^#].*==' "$requirements") pinned packages ($size) into $venv ..."
# --no-deps: the list is complete. That for CPUs leaves out torchvision, torchaudio and torchcodec,
# whose usual builds break the CPU build of torch.
# --no-compile: Python compiles what is imported when it is; all files would take three minutes.
if ! "$venv/bin/pip" install --quiet --no-compile --no-deps --requirement "$requirements"; then
    case $requirements in *gpu.txt) exit 1 ;; esac
    echo "Trying again with PyTorch's own index for the CPU build of torch ..." >&2
    "$venv/bin/pip" install --quiet --no-compile --no-deps --requirement "$requirements" \
        --extra-index-url https://download.pytorch.org/whl/cpu
fi
