#!/bin/sh
# openvino 2026.4.1 with openvino-telemetry 2025.2.0, which pip installs beside it.
#
# Expected: importing a package computes and writes nothing about its user; telemetry asks first.
# Seen: `import openvino` makes a client's identity, ~/intel/openvino_ga_cid, and events are sent from then on unless
# the user has opted out before; no question, no line. Where the package is not found, none of that happens.
# Here: train/network/deploy/runtimes.py imports openvino as if openvino-telemetry were not installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet openvino==2026.4.1 openvino-telemetry==2025.2.0
look() {
    mkdir "$folder/$1"
    env -u CI HOME="$folder/$1" "$folder/env/bin/python" -c "$2; import openvino" > /dev/null 2>&1
    echo "$1: $(cd "$folder/$1" && find . -name openvino_ga_cid)"
}
"$folder/env/bin/python" -c 'import openvino; print("openvino", openvino.__version__)' 2> /dev/null
look plain "pass" | tee "$folder/found.txt"
look hidden "import sys; sys.modules['openvino_telemetry'] = None" | tee -a "$folder/found.txt"
printf 'plain: ./intel/openvino_ga_cid\nhidden: \n' | cmp - "$folder/found.txt"
echo "still so"
