"""Raw trees of the data sets, as their authors lay them out; what a user's own reader imports."""

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, Track, make_track
from lorat.prep.trees.base.folders import image_names, subfolders
from lorat.prep.trees.base.official import expected_frames, expected_sequences, official_names
from lorat.prep.trees.base.reading import cut_clip, note, read_each
from lorat.prep.trees.base.text import read_boxes, read_flags, read_text
from lorat.prep.trees.registry import DATASETS, parse_name, read_clips
from lorat.shards.base.errors import UserError
