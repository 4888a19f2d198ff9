#!/bin/sh
# Makes an environment with VOT's toolkit in the folder $1, with $2 as Python: vot-toolkit 0.7.4 and the packages that it
# works with. Can be run again, by several at once.
set -eu
mkdir -p "$1"
exec 9>"$1/.lock"
if command -v flock >/dev/null; then flock 9; fi
[ ! -e "$1/.ready" ] || exit 0
"$2" -m venv --clear "$1/env"
"$1/env/bin/pip" install --quiet --disable-pip-version-check vot-toolkit==0.7.4 attributee==0.1.9 vot-trax==4.0.2
touch "$1/.ready"
