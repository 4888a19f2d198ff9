"""A tracker that never moves, needs no network, and misbehaves at a frame if a file in the folder $1 says so."""

import os
import signal
import sys
import time
from pathlib import Path

from lorat.evaluate.vot.dialogue import Dialogue

ORDERS = Path(sys.argv[1])


def main() -> None:
    dialogue, boxes = Dialogue(), None
    for image, first in dialogue.requests():
        boxes = boxes if first is None else first
        at = f"{image.parents[1].name}-{int(image.stem)}"  # seq-1-5
        while (ORDERS / f"hang-{at}").exists():
            time.sleep(0.05)
        if (ORDERS / f"crash-{at}").exists():
            raise RuntimeError(f"what went wrong at {at}")
        if (ORDERS / f"kill-{at}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        dialogue.answer(boxes, [1.0] * len(boxes))


main()
