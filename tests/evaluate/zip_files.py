"""Submission zips made by hand, without the packer: the judge's tests do not lean on it."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np

from lorat.evaluate.submit.servers import SERVERS
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.pixels.geometry import xywh_to_xyxy

GOT10K = SERVERS["got10k"].official
TRACKINGNET = SERVERS["trackingnet"].official
BOXES = b"10.0000,20.0000,30.0000,40.0000\n11.0000,20.0000,30.0000,40.0000\n"
OTHER = b"10.0000,20.0000,30.0000,40.0000\n12.0000,20.0000,30.0000,40.0000\n"
TIMES = b"0.01000000\n0.00500000\n"


def got10k_files(top: str = "", runs: int = 1) -> dict[str, bytes]:
    """A whole submission of two frames a sequence; repeated runs differ."""
    files = {}
    for name in GOT10K:
        folder = f"{top}{name}/{name}"
        for run in range(1, runs + 1):
            files[f"{folder}_{run:03d}.txt"] = BOXES if run == 1 else OTHER
        files[f"{folder}_time.txt"] = TIMES
    return files


def trackingnet_files() -> dict[str, bytes]:
    return {f"{name}.txt": BOXES for name in TRACKINGNET}


def zipped(files, compression: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    """A zip of a dict, or of pairs where a name is there twice; a None is a folder."""
    buffer = io.BytesIO()
    pairs = files.items() if isinstance(files, dict) else files
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, about a name that is there twice
        for name, data in pairs:
            archive.writestr(name, data or b"")
    return buffer


def tree_of(frames: dict[str, int], firsts: dict | None = None, size: tuple[int, int] = (10**6, 10**6)) -> list[Clip]:
    """Sequences of a test set: frames of each, and given boxes x, y, w, h where they matter."""
    clips = []
    for name, count in frames.items():
        given = xywh_to_xyxy((firsts or {}).get(name, np.full(4, np.nan)))[None]
        files = FrameFiles(Path("frames"), range(1, count + 1), "%08d.jpg")
        clips.append(Clip("x", "test", name, files, (Track(given, np.ones(1, bool)),), 1, size))
    return clips
