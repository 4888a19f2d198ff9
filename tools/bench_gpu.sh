#!/bin/sh
# Runs benchmarks/gpu.py where nothing of this project is installed: sh tools/bench_gpu.sh [options of the benchmark]
# Needs a Python ($PYTHON, else python3) with PyTorch 2.11 or newer, timm and OpenCV; what else is missing is taken from
# the folder of wheels $WHEELS, which this script says how to fill.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
mkdir -p "$scratch/lorat" "$scratch/site"
for package in shards prep train evaluate configs; do
    ln -s "$root/$package" "$scratch/lorat/$package"
done
if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$scratch/site" "$WHEELS"/*.whl
fi
export PYTHONPATH="$scratch:$scratch/site:$root"
"$python" - <<'PYTHON'
import importlib.util
import sys

PURE = ("PyTurboJPEG<2",)  # released as source alone
needed = {
    "annotated_types": "annotated-types", "click": "click", "cv2": "opencv-python-headless", "fsspec": "fsspec",
    "huggingface_hub": "huggingface_hub", "jinja2": "jinja2", "matplotlib": "matplotlib", "numpy": "numpy",
    "pathlib_abc": "pathlib_abc", "PIL": "pillow", "pydantic": "pydantic", "pydantic_core": "pydantic_core",
    "rich": "rich", "safetensors": "safetensors", "timm": "timm", "torch": "torch", "torchvision": "torchvision", "turbojpeg": "PyTurboJPEG<2",
    "typing_inspection": "typing-inspection", "upath": "universal_pathlib", "xxhash": "xxhash", "yaml": "PyYAML",
    "zstandard": "zstandard",
}
missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
if missing:
    pure = [f"'{package}'" for package in missing if package in PURE]
    built = [package for package in missing if package not in PURE]
    print(f"missing here: {', '.join(missing)}; where there is a network, fill a folder:", file=sys.stderr)
    if built:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        places = "--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64"
        how = f"--no-deps --only-binary=:all: --python-version {version} --implementation cp {places}"
        print(f"  pip download -d wheels {how} {' '.join(built)}", file=sys.stderr)
    if pure:
        print(f"  pip wheel -w wheels --no-deps {' '.join(pure)}", file=sys.stderr)
    print("bring it here, and: WHEELS=wheels sh tools/bench_gpu.sh", file=sys.stderr)
    sys.exit(2)
PYTHON
cd "$root"
"$python" -m benchmarks.gpu "$@"
