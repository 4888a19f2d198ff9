#!/bin/sh
# vot-toolkit 0.9.0 (0.7.4 too) with attributee 0.1.9 and vot-trax 4.0.2, the stack vots2025/votstval on one sequence
# whose frames all have the tag that the stack filters by.
#
# Expected: scores of the tagged frames.
# Seen: "'NoneType' object is not iterable" and no scores, unless the sequence brings pixels to ignore
# (groundtruth__ignore.txt), which stacks without a tag do without.
# Here: docs/vot.md says so; lorat-eval vot ends with the toolkit's last words where it wrote no scores.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet vot-toolkit==0.9.0 attributee==0.1.9 vot-trax==4.0.2
mkdir -p "$folder/sequences/one/color"
cd "$folder"
cat > tracker.py <<'PYTHON'
import trax

server = trax.Server([trax.Region.RECTANGLE], [trax.Image.PATH], ["color"], multiobject=True)
while (request := server.wait()).type != trax.TraxStatus.QUIT:
    server.status([(trax.Rectangle.create(10, 10, 20, 20), {})] * 2)
PYTHON
"$folder/env/bin/python" - <<'PYTHON'
import cv2
import numpy

for number in range(1, 9):
    cv2.imwrite(f"sequences/one/color/{number:08d}.jpg", numpy.full((60, 80, 3), 99, numpy.uint8))
PYTHON
echo one > sequences/list.txt
printf 'name=one\nfps=30\nformat=default\nchannels.color=color/%%08d.jpg\n' > sequences/one/sequence
for number in 1 2 3 4 5 6 7 8; do
    echo 1 >> sequences/one/evaluation.tag
    echo 10,10,20,20 | tee -a sequences/one/groundtruth_1.txt >> sequences/one/groundtruth_2.txt
done
printf 'registry: [./trackers.ini]\nstack: vots2025/votstval\n' > config.yaml
printf '[Still]\nlabel = Still\nprotocol = trax\ncommand = %s/env/bin/python %s/tracker.py\n' "$folder" "$folder" > trackers.ini
env/bin/vot evaluate --workspace "$folder" Still > seen.txt 2>&1
env/bin/vot analysis --workspace "$folder" --name without Still >> seen.txt 2>&1 || true
grep -o "'NoneType' object is not iterable" seen.txt | head -1 | tee found.txt
echo "scores without pixels to ignore: $(find analysis -name without.json 2>/dev/null | wc -l)" | tee -a found.txt
for number in 1 2 3 4 5 6 7 8; do echo m0,0,1,1,1 >> sequences/one/groundtruth__ignore.txt; done
env/bin/vot analysis --workspace "$folder" --name with Still >> seen.txt 2>&1 || true
echo "scores with some: $(find analysis -name with.json 2>/dev/null | wc -l)" | tee -a found.txt
printf "'NoneType' object is not iterable\nscores without pixels to ignore: 0\nscores with some: 1\n" | cmp - found.txt
echo "still so"
