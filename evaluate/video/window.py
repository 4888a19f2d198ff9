"""A window on a display: the video as it is tracked, and boxes drawn with the mouse. OpenCV shows it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.pictures import Box, Outline, Picture, draw_outlines
from lorat.shards.base.errors import UserError

_LARGEST = (1600, 900)  # pixels of the part of a screen that a picture may take
_SMALLEST = 640  # pixels of a picture's longer side
_DONE, _BACK, _END = (13, 32), (8, 127), (27, ord("q"))  # keys: Enter, space; backspace; Escape, q
_LEAST = 3.0  # pixels of the picture: a shorter drag is a slip
_TURN_MS = 15
_PROBE, _PROBE_S = "import cv2; cv2.namedWindow('lorat'); cv2.waitKey(1)", 30.0


def check_windows(option: str) -> None:
    """Raise a `UserError` that says what `option` lacks here. Another process tries: where there is no display, some
    builds of OpenCV end the process that asks for a window.
    """
    if any(line.split()[1:] == ["NONE"] for line in cv2.getBuildInformation().splitlines() if "GUI:" in line):
        how = "pip uninstall opencv-python-headless, then pip install opencv-python"
        raise UserError(f"{option}: this OpenCV was built without windows; {how}")
    with suppress(subprocess.TimeoutExpired):
        if not subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_S).returncode:
            return
    raise UserError(f"{option}: no display on which a window opens ($DISPLAY); leave it out, and look at the video")


@contextmanager
def window(name: str) -> Iterator["Window"]:
    """Open a window until the block ends."""
    cv2.namedWindow(name, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
    try:
        yield Window(name)
    finally:
        with suppress(cv2.error):  # closed by hand
            cv2.destroyWindow(name)


class Window:
    """An open window."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._drag: list[tuple[int, int]] = []  # where the button was pressed, and where the mouse is now
        self._drawn: list[Box] = []  # (4,) xyxy in the picture shown

    def show(self, picture: Picture, wait: int = 1) -> int:
        """Show an RGB picture as large as a screen allows, for so many milliseconds at least. Returns the key that was
        pressed, 255 for none, and that of Escape where the window was closed.
        """
        cv2.imshow(self.name, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(wait) & 0xFF
        return key if cv2.getWindowProperty(self.name, cv2.WND_PROP_VISIBLE) >= 1 else _END[0]

    def goes_on(self, picture: Picture) -> bool:
        """Show a picture; return whether it is to go on: not after q, Escape or a window closed."""
        return self.show(fitting(picture)[0]) not in _END

    def pick(self, image: Picture) -> NDArray[np.float64]:
        """Let boxes be drawn on a frame with the mouse: backspace takes the last one back, Enter or the space bar ends.
        Returns (N, 4) xyxy in its pixels, none after Escape or q.
        """
        picture, scale = fitting(image)
        cv2.setMouseCallback(self.name, self._mouse)
        self._drag, self._drawn, key = [], [], 255
        while key not in _DONE:
            boxes = [*self._drawn, *([_box(*self._drag)] if self._drag else [])]
            outlines = [Outline(number, box, str(number)) for number, box in enumerate(boxes, start=1)]
            key = self.show(draw_outlines(picture.copy(), outlines), _TURN_MS)
            if key in _BACK:
                self._drawn = self._drawn[:-1]
            if key in _END:
                self._drawn = []
                break
        cv2.setMouseCallback(self.name, lambda *_: None)
        return np.array(self._drawn, dtype=np.float64).reshape(-1, 4) / scale

    def _mouse(self, event: int, x: int, y: int, flags: int, _: object) -> None:
        if event == cv2.EVENT_LBUTTONDOWN:
            self._drag = [(x, y), (x, y)]
        elif self._drag:
            self._drag[1] = (x, y)
            if event == cv2.EVENT_LBUTTONUP:
                box = _box(*self._drag)
                self._drag = []
                if (box[2:] - box[:2] >= _LEAST).all():
                    self._drawn = [*self._drawn, box]


def _box(one: tuple[int, int], other: tuple[int, int]) -> Box:
    corners = np.array([one, other], dtype=np.float64)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def fitting(picture: Picture) -> tuple[Picture, float]:
    """Return a picture reduced to fit a screen, or enlarged to be drawn on, and its scale."""
    height, width = picture.shape[:2]
    scale = min(max(1.0, _SMALLEST / max(height, width)), _LARGEST[0] / width, _LARGEST[1] / height)
    if scale != 1:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how)
    return picture, scale
