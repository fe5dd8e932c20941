#!/usr/bin/env bash
# Build the sdist, and the wheel from it; install the wheel into a clean environment outside the checkout; run there the
# first study and the tests' smoke part, both taken from the sdist.
#
#   .ci/check_build.sh PYTHON    a Python of an environment with clsearch's dependencies and `build`
#
# To save 6.5 GB and minutes, the clean environment borrows the dependencies from PYTHON's, behind its own packages;
# clsearch itself comes from the wheel.
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
borrowed=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
rm -rf "$root/dist"
"$python" -m build --outdir "$root/dist" "$root" > "$place/log" 2>&1 || { cat "$place/log"; exit 1; }
tail -n 1 "$place/log"
unset PYTHONPATH
"$python" -m venv --without-pip "$place/venv" # with pip come other versions of what is borrowed
clean=$place/venv/bin/python
echo "$borrowed" > "$("$clean" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_borrowed.pth"
# Dependencies that the wheel names are looked for among the borrowed ones, and nowhere else.
"$python" -m pip --python "$clean" install --quiet --no-index "$root"/dist/*.whl

mkdir "$place/work"
cd "$place/work"
tar --extract --gzip --file "$root"/dist/*.tar.gz --strip-components 1
rm -r clsearch ./*.egg-info # which would be imported before the wheel's

"$clean" - "$root" "$place/venv" "$borrowed" <<'CHECK'
import sys
from importlib.metadata import version
from pathlib import Path

import clsearch

root, clean, borrowed = (Path(word).resolve() for word in sys.argv[1:])
module = Path(clsearch.__file__).resolve()
paths = [Path(word).resolve() for word in sys.path if word]
of_checkout = [path for path in paths if path.is_relative_to(root) and path != borrowed]
assert module.is_relative_to(clean), f"clsearch comes from {module}, not from the wheel"
assert not of_checkout, f"the checkout is on sys.path: {of_checkout}"
assert (module.parent / "py.typed").exists()
print(f"clsearch {version('clsearch-studies')} from {module.parent}")
CHECK

"$clean" studies/lwf_temperature_sweep.py --trials 4 --seeds 2 --epochs 2 --report-seeds 2
"$place/venv/bin/clsearch" show lwf_temperature_sweep > /dev/null
test -s results/lwf_temperature_sweep/report.html
"$clean" -m pytest -m smoke
