#!/bin/sh
# Installs the wheel of dist/ with its core dependencies into an empty environment and uses it there, outside the source tree.
set -eu
python=${1:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$root"/dist/cmmixer-*.whl
cd "$place"
"$place/env/bin/cmmixer" --version
"$place/env/bin/cmmixer" synthesize --clips 2 --out videos --seed 1 --json >/dev/null
"$place/env/bin/cmmixer" prepare --data videos --out store --preset nano --json >/dev/null
"$place/env/bin/python" - <<'PYTHON'
from importlib import resources

import cmmixer

assert (resources.files("cmmixer") / "py.typed").is_file(), "the wheel has no py.typed"
assert (resources.files("cmmixer.server") / "page" / "index.html").is_file(), "the wheel has no page"
assert cmmixer.mix.__module__ == "cmmixer.models.mixer"
PYTHON
echo "the wheel works in an empty environment"
