"""Sets that are a folder of frames and a file of boxes for each sequence: AVisT, DTB70, UAVDT and VisDrone-SOT.

Written from readers and toolkits that are published for them: no tree of theirs was at hand.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import file_names, image_names, natural_order, subfolders
from lorat.prep.trees.base.reading import cut_clip, note, read_each, report_fault, report_lack
from lorat.prep.trees.base.text import read_boxes, read_flags


@dataclass(frozen=True)
class Layout:
    """Where the parts of a sequence lie in a tree; {} is its name."""

    images: str
    boxes: str  # a row x, y, width, height an image
    flags: tuple[str, ...] = ()  # 0 or 1 an image; absent where any is 1


_HIDDEN = ("full_occlusion/{}_full_occlusion.txt", "out_of_view/{}_out_of_view.txt")
AVIST = (Layout("sequences/{}", "anno/{}.txt", _HIDDEN),)
DTB70 = (Layout("{}/img", "{}/groundtruth_rect.txt"),)
UAVDT = (
    Layout("UAV-benchmark-S/{}", "UAV-benchmark-SOT_v1.0/anno/{}_gt.txt"),
    Layout("sequences/{}", "anno/{}_gt.txt"),
    Layout("sequences/{}", "annotations/{}_gt.txt"),
    Layout("{}", "{}/{}_gt.txt"),
)
VISDRONE = (Layout("sequences/{}", "annotations/{}.txt"),)


def read(layouts: tuple[Layout, ...], dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of a tree, in the first of the layouts whose folders are there."""

    def place(template: str, name: str = "") -> Path:
        return root / (template.replace("{}", name) if name else template.partition("{}")[0])

    layout = next((each for each in layouts if place(each.images).is_dir() and place(each.boxes).is_dir()), None)
    if layout is None:
        return []
    there, files = natural_order(subfolders(place(layout.images))), dict[str, Path]()
    for name in there:
        files[name] = place(layout.boxes, name)
        note(files[name])
        if not files[name].is_file():
            report_fault(name, f"{files.pop(name)}: no such file, so {name} is not read as a sequence")
    if not layout.boxes.startswith("{}"):
        folder, _, suffix = layout.boxes.partition("{}")
        named = [file.removesuffix(suffix) for file in file_names(root / folder, suffix)]
        report_lack(root / folder, f"the {{}} in {place(layout.images)}", "annotated sequence", named, there)

    def clip(name: str) -> Clip:
        images, xywh = place(layout.images, name), read_boxes(files[name])
        flags = [read_flags(place(flag, name), len(xywh)) for flag in layout.flags]
        absent = np.any(flags, axis=0) if flags else None
        return cut_clip(dataset, split, name, FrameFiles(images, image_names(images)), xywh, absent=absent)

    return read_each({name: name for name in files}, clip)
