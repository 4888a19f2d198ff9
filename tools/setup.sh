#!/bin/sh
# Makes the environment $VENV with the package and its development tools. Can be run again.
set -eu

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …" >&2
    exit 2
}
[ -x "$VENV/bin/pip" ] || "$PYTHON" -m venv --clear "$VENV"
"$VENV/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'

# The JPEG codec's library (without it OpenCV's codec does the work, more slowly), the zstd command
# (without it tests that open shards in other tools are skipped), and Chromium (without it the test
# that clicks through a report page is skipped).
has_turbojpeg() {
    "$VENV/bin/python" -c 'import turbojpeg; turbojpeg.TurboJPEG()' 2>/dev/null
}
has_zstd() {
    command -v zstd >/dev/null
}
has_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null
}
if ! { has_turbojpeg && has_zstd && has_chromium; } && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq || true
    has_zstd || apt-get install -y -qq zstd >/dev/null 2>&1 || true
    has_chromium || apt-get install -y -qq chromium >/dev/null 2>&1 || true
    has_turbojpeg || apt-get install -y -qq libturbojpeg0 >/dev/null 2>&1 ||
        apt-get install -y -qq libturbojpeg >/dev/null 2>&1 || true
fi
has_turbojpeg || echo "note: no turbojpeg library here; OpenCV's codec does the work" >&2
has_zstd || echo "note: no zstd command here; tests that need it are skipped" >&2
has_chromium || echo "note: no chromium command here; the test that needs it is skipped" >&2
