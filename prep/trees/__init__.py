"""Raw trees of the data sets, as their authors lay them out; what a user's own reader imports."""

from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.base.common import cut_clip, image_names, make_track, subfolders
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.official import expected_frames, expected_sequences, official_names
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes, read_flags, read_text
from lorat.prep.trees.base.watch import note
from lorat.prep.trees.registry import DATASETS, parse_name, read_clips
from lorat.shards.base.errors import UserError

__all__ = [
    "DATASETS",
    "Clip",
    "Dataset",
    "FrameFiles",
    "Track",
    "UserError",
    "cut_clip",
    "expected_frames",
    "expected_sequences",
    "image_names",
    "make_track",
    "note",
    "official_names",
    "parse_name",
    "read_boxes",
    "read_clips",
    "read_each",
    "read_flags",
    "read_text",
    "subfolders",
]
