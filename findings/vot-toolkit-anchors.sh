#!/bin/sh
# vot-toolkit 0.9.0 with attributee 0.1.9 and vot-trax 4.0.2, the stack vot2022/shorttermbox on one sequence with one anchor.
#
# Expected: the tracker is started at the anchor. Where results lack, `vot pack` ends with another exit status than 0.
# Seen: "ObjectQuery.state must be a Region" (exit status 1), no results; `vot pack` then writes no zip and exits with 0.
# Version 0.7.4 tracks the same workspace.
# Here: stacks that start from anchors run on 0.7.4 only, and success is judged by the files (evaluate/vot).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet vot-toolkit==0.9.0 attributee==0.1.9 vot-trax==4.0.2
mkdir -p "$folder/sequences/one/color"
cd "$folder"
cat > tracker.py <<'PYTHON'
import trax

server = trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], ["color"])
while (request := server.wait()).type != trax.TraxStatus.QUIT:
    server.status([(trax.Rectangle.create(10, 10, 20, 20), {})])
PYTHON
"$folder/env/bin/python" - <<'PYTHON'
import cv2
import numpy

for number in range(1, 9):
    cv2.imwrite(f"sequences/one/color/{number:08d}.jpg", numpy.full((60, 80, 3), 99, numpy.uint8))
PYTHON
echo one > sequences/list.txt
printf 'name=one\nfps=30\nformat=default\nchannels.color=color/%%08d.jpg\n' > sequences/one/sequence
for number in 1 2 3 4 5 6 7 8; do echo 10,10,20,20; done > sequences/one/groundtruth.txt
printf '1\n0\n0\n0\n0\n0\n0\n0\n' > sequences/one/anchor.value
printf 'registry: [./trackers.ini]\nstack: vot2022/shorttermbox\n' > config.yaml
printf '[Still]\nlabel = Still\nprotocol = trax\ncommand = %s/env/bin/python %s/tracker.py\n' "$folder" "$folder" > trackers.ini
status=0
env/bin/vot evaluate --workspace "$folder" Still > seen.txt 2>&1 || status=$?
echo "evaluate: status $status" | tee found.txt
status=0
env/bin/vot pack --workspace "$folder" Still >> seen.txt 2>&1 || status=$?
echo "pack: status $status" | tee -a found.txt
grep -o 'ObjectQuery.state must be a Region' seen.txt | head -1 | tee -a found.txt
echo "zips: $(find . -maxdepth 1 -name '*.zip' | wc -l)" | tee -a found.txt
printf 'evaluate: status 1\npack: status 0\nObjectQuery.state must be a Region\nzips: 0\n' | cmp - found.txt
echo "still so"
