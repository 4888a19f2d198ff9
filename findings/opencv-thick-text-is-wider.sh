#!/bin/sh
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93), cv2.putText.
#
# Expected: text drawn twice at one place, first thick and dark, then thin and bright, is bright letters with a dark outline,
# as it is with OpenCV 4: thickness is that of the line, and letters stand where they stood.
# Seen: thickness chooses the weight of a font, whose letters are wider: the further to the right, the further the two
# texts are apart, by a letter's width after some fifteen letters.
# Here: words in pictures stand on a filled ground instead of an outline (evaluate/pictures.py).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet 'opencv-python-headless==5.0.0.93'
cat > "$folder/text.py" <<'PYTHON'
import cv2
import numpy as np


def last_column(thickness):
    picture = np.zeros((40, 400), np.uint8)
    cv2.putText(picture, "score 0.32 lost", (10, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, thickness)
    return int(np.flatnonzero(picture.any(axis=0))[-1])


thin, thick = last_column(1), last_column(3)
print("opencv", cv2.__version__, "thin text ends at", thin, "thick text at", thick)
raise SystemExit(0 if thick - thin > 4 else 1)
PYTHON
"$folder/env/bin/python" "$folder/text.py"
echo "still so"
