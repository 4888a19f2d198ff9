"""The commands that unpack the sets: in the docs as in the package, and run on small archives of their forms."""

import json
import re
import shutil
import subprocess
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from lorat.prep.trees.base.official import how_to_get
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.pixels.jpeg import encode

COMMANDS = (resources.files("lorat.prep.trees.base") / "data" / "getting.sh").read_text("utf-8")
IMAGE = encode(np.full((8, 8, 3), 128, np.uint8))
BOX, LASOT = "1,2,3,4\n", "{0}/groundtruth.txt|{0}/full_occlusion.txt=0|{0}/out_of_view.txt=0|{0}/img/00000001.jpg"
GOT10K = "{0}/groundtruth.txt|{0}/absence.label=0|{0}/cover.label=8|{0}/00000001.jpg"
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 1, 3, 3], "iscrowd": 0}],
    }
)
LAGOT = json.dumps({"bear-1": {"frames": ["bear/bear-1/img/00000001.jpg"], "xywh": [[1, 2, 3, 4]]}})
ARCHIVES = {  # what each holds: files, a box in them, or what stands behind =
    "LaSOT/bear.zip": LASOT.format("bear/bear-1"),
    "LaSOT/cat.zip": LASOT.format("cat-20"),
    "LaSOT-ext/atv.zip": LASOT.format("atv/atv-1"),
    "full_data/train_data/GOT-10k_Train_split_01.zip": GOT10K.format("GOT-10k_Train_000001"),
    "full_data/val_data.zip": "val/list.txt=GOT-10k_Val_000001|" + GOT10K.format("val/GOT-10k_Val_000001"),
    "full_data/test_data.zip": "test/list.txt=GOT-10k_Test_000001|" + GOT10K.format("test/GOT-10k_Test_000001"),
    "TrackingNet/TRAIN_0/zips/a_0.zip": "0.jpg",
    "TrackingNet/TEST/zips/b_0.zip": "0.jpg",
    "coco/annotations_trainval2017.zip": f"annotations/instances_train2017.json={COCO}",
    "coco/train2017.zip": "train2017/1.jpg",
    "coco/val2017.zip": "val2017/1.jpg",
    "vasttrack/train/part-1.zip": "Bear/Bear-1/Groundtruth.txt|Bear/Bear-1/imgs/00001.jpg",
    "vasttrack/test/part-1.zip": "Cat/Cat-1/Groundtruth.txt|Cat/Cat-1/imgs/00001.jpg",
    "Dataset_UAV123.zip": "UAV123/anno/UAV123/bike1.txt|UAV123/anno/UAV20L/bike1.txt"
    "|UAV123/data_seq/UAV123/bike1/000001.jpg",
    "Dataset_UAV123_10fps.zip": "UAV123_10fps/anno/UAV123_10fps/bike1.txt"
    "|UAV123_10fps/data_seq/UAV123_10fps/bike1/000001.jpg",
    "otb/Board.zip": "Board/groundtruth_rect.txt|Board/img/00001.jpg|__MACOSX/Board/._groundtruth_rect.txt",
    "nfs/book.zip": "book/30/book.txt=0 1 2 4 6 1 0 0 0|book/30/book/00001.jpg"
    "|book/240/book.txt=0 1 2 4 6 1 0 0 0|book/240/book/00001.jpg",
    "Temple-color-128.zip": "TC/Bird/Bird_gt.txt|TC/Bird/Bird_frames.txt=1,1|TC/Bird/img/0001.jpg",
    "didi/didi.zip": "didi/sequences/ant/groundtruth.txt|didi/sequences/ant/color/00000001.jpg",
    "avist/avist.zip": "avist/anno/a.txt|avist/sequences/a/img_00001.jpg"
    "|avist/full_occlusion/a_full_occlusion.txt=0|avist/out_of_view/a_out_of_view.txt=0",
    "lagot_got_sot_format.zip": f"x/LaGOT_one_object_per_sequence_annotations_final.json={LAGOT}",
    "dtb70/DTB70.zip": "DTB70/Car2/groundtruth_rect.txt|DTB70/Car2/img/00001.jpg",
    "UAV-benchmark-S.zip": "UAV-benchmark-S/S0101/img000001.jpg",
    "UAV-benchmark-SOT_v1.0.zip": "UAV-benchmark-SOT_v1.0/anno/S0101_gt.txt",
    "VisDrone2019-SOT-test-dev.zip": "VisDrone2019-SOT-test-dev/annotations/a_s.txt"
    "|VisDrone2019-SOT-test-dev/sequences/a_s/img0000001.jpg",
}
LOOSE = {  # what is no archive where it is fetched to
    "LaSOT": "training_set.txt=bear-1|testing_set.txt=cat-20",
    "full_data/train_data": "list.txt=GOT-10k_Train_000001",
    "TrackingNet": "TRAIN_0/anno/a_0.txt|TEST/anno/b_0.txt",
    "tnl2k": "train/x/A_video/groundtruth.txt|train/x/A_video/imgs/1.jpg|test/B_video/groundtruth.txt"
    "|test/B_video/imgs/1.jpg",
    "vot": "sequences/bag/groundtruth.txt|sequences/bag/color/00000001.jpg",
}


def contents(held: str):
    for each in held.split("|"):
        name, says, text = each.partition("=")
        yield name, IMAGE if name.endswith(".jpg") else (text if says else BOX).encode()


def test_the_docs_show_the_commands_of_the_package():
    (shown,) = re.findall(
        r"```bash\n(RAW=.*?)```", (Path(__file__).parents[3] / "docs/data.md").read_text("utf-8"), re.DOTALL
    )
    assert shown == COMMANDS


@pytest.mark.skipif(not shutil.which("unzip"), reason="needs unzip")
def test_the_commands_end_in_what_the_readers_read(tmp_path):
    for name, held in ARCHIVES.items():
        (tmp_path / "data/zips" / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(tmp_path / "data/zips" / name, "w") as archive:
            for inner, data in contents(held):
                archive.writestr(inner, data)
    for name, held in LOOSE.items():
        for inner, data in contents(held):
            file: Path = tmp_path / "data/zips" / name / inner
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    done = subprocess.run(["bash", "-eu", "-c", COMMANDS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for dataset in DATASETS.values():
        if dataset.name == "generic":
            continue
        split = dataset.prep_split or dataset.eval_split
        split = {"got10k": "train"}.get(dataset.name, split)
        folder = dataset.folders(split)[0]
        assert len(read_clips(dataset, split, tmp_path / "data/raw" / folder)) == 1, dataset.name
        assert how_to_get(dataset.name)[1], dataset.name
