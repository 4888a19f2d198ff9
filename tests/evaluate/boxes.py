"""Made-up boxes for the tests of measures."""

import numpy as np


def boxes_of(seed, n=40):
    """Return (n, 4) xyxy of boxes with a size, anywhere."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 300, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 100, (n, 2))], axis=1)


def moved(boxes, pixels):
    return boxes + np.array([pixels, 0, pixels, 0])
