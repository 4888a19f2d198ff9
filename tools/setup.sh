#!/bin/sh
# Makes the environment $VENV with the package and its development tools. Can be run again.
set -eu

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …" >&2
    exit 2
}
[ -x "$VENV/bin/pip" ] || "$PYTHON" -m venv --clear "$VENV"
"$VENV/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'

# The JPEG codec's library. Without it OpenCV's codec does the work, more slowly.
has_turbojpeg() {
    "$VENV/bin/python" -c 'import turbojpeg; turbojpeg.TurboJPEG()' 2>/dev/null
}
if ! has_turbojpeg && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq || true
    apt-get install -y -qq libturbojpeg0 >/dev/null 2>&1 ||
        apt-get install -y -qq libturbojpeg >/dev/null 2>&1 || true
fi
has_turbojpeg || echo "note: no turbojpeg library here; OpenCV's codec does the work" >&2
