"""VOT's regions: boxes, polygons, masks and codes, a line each."""

import numpy as np
import pytest

from lorat.prep.trees.base.regions import parse_mask, parse_regions
from lorat.shards.base.errors import UserError

# Of 5 x 3 pixels at (10, 20), columns 1 to 3 of row 1, and column 2 of row 2.
MASK = "m10,20,5,3,6,3,3,1,2"


def test_every_kind_of_region_has_its_box_and_a_code_none():
    lines = [
        "30,40,20,10",
        "3,4,1,2,6,8,7,5",
        MASK,
        "0",
        "1 2 5 2 5 6",
        "m3,4,2,2,0,4",
        "m3,4,2,2,4",
        "nan,nan,nan,nan",
    ]
    boxes, codes = parse_regions("\n".join(lines), "here", "mend it")
    wanted = [[30, 40, 20, 10], [1, 2, 6, 6], [11, 21, 3, 2], [np.nan] * 4, [1, 2, 4, 4], [3, 4, 2, 2]]
    np.testing.assert_array_equal(boxes, [*wanted, [np.nan] * 4, [np.nan] * 4])
    np.testing.assert_array_equal(codes, [*[np.nan] * 3, 0, *[np.nan] * 4])


def test_a_mask_is_its_pixels_whatever_zeros_at_its_end_are_left_out():
    for line in (MASK, MASK.removesuffix(",2")):
        x, y, mask = parse_mask(line)
        assert (x, y, mask.shape) == (10, 20, (3, 5))
        assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [1, 3], [2, 2]]


@pytest.mark.parametrize(
    "line", ["1,2", "1,2,3", "1,2,3,x", "1,2,3,4,5", "m1,2,3,4", "", "m1,2,3,4,x,1", "m1,2,3,4,nan", "1,,2,3"]
)
def test_a_line_that_is_none_of_them_is_named(line):
    with pytest.raises(UserError, match=r"here: line 2: expected a box, a polygon, a mask or one number.*mend it"):
        parse_regions(f"1,2,3,4\n{line}\n1,2,3,4", "here", "mend it")


def test_a_mask_that_is_longer_than_its_box_is_named():
    says = r"here: line 1: the runs of the mask 'm1,2,3,4,5,8' are longer than its width x height; mend it"
    with pytest.raises(UserError, match=says):
        parse_regions("m1,2,3,4,5,8", "here", "mend it")
