RAW=data/raw ZIPS=data/zips
mkdir -p "$RAW"

# lasot, lasot_ext: http://vision.cs.stonybrook.edu/~lasot/
# A zip with or without its class's folder will do.
unzip -q -n "$ZIPS/LaSOT/*.zip" -d "$RAW/LaSOT"
cp "$ZIPS"/LaSOT/t*ing_set.txt "$RAW/LaSOT"
unzip -q -n "$ZIPS/LaSOT-ext/*.zip" -d "$RAW/LaSOT_Extension"

# got10k: http://got-10k.aitestunion.com/downloads
mkdir -p "$RAW/GOT-10k"
unzip -q -n "$ZIPS/full_data/train_data/*.zip" -d "$RAW/GOT-10k/train"
cp "$ZIPS/full_data/train_data/list.txt" "$RAW/GOT-10k/train"
unzip -q -n "$ZIPS/full_data/val_data.zip" -d "$RAW/GOT-10k"
unzip -q -n "$ZIPS/full_data/test_data.zip" -d "$RAW/GOT-10k"

# trackingnet: https://tracking-net.org/
# Each zip to a folder of its name; zips/ may go afterwards.
mv "$ZIPS/TrackingNet" "$RAW/TrackingNet"
for c in "$RAW"/TrackingNet/T*; do mkdir -p "$c/frames"; done
for z in "$RAW"/TrackingNet/*/zips/*.zip; do unzip -q -n "$z" -d "${z%/zips/*}/frames/$(basename "$z" .zip)"; done

# coco: https://cocodataset.org/#download
mkdir -p "$RAW/COCO"
unzip -q -n "$ZIPS/coco/annotations_trainval2017.zip" -d "$RAW/COCO"
unzip -q -n "$ZIPS/coco/train2017.zip" -d "$RAW/COCO/images"
unzip -q -n "$ZIPS/coco/val2017.zip" -d "$RAW/COCO/images"

# tnl2k: https://github.com/wangxiao5791509/TNL2K_evaluation_toolkit
# Its subsets unpacked to ZIPS/tnl2k/train and ZIPS/tnl2k/test: sequences out of any folders around them.
mkdir -p "$RAW/TNL2K_TRAIN" "$RAW/TNL2K_TEST"
find "$ZIPS/tnl2k/train" -name imgs -prune -printf '%h\0' | xargs -0r mv -t "$RAW/TNL2K_TRAIN"
find "$ZIPS/tnl2k/test" -name imgs -prune -printf '%h\0' | xargs -0r mv -t "$RAW/TNL2K_TEST"

# vasttrack: https://github.com/HengLan/VastTrack
unzip -q -n "$ZIPS/vasttrack/train/*.zip" -d "$RAW/VastTrack_TRAIN"
unzip -q -n "$ZIPS/vasttrack/test/*.zip" -d "$RAW/VastTrack_TEST"

# uav123, uav20l: https://cemse.kaust.edu.sa/ivul/uav123
unzip -q -n "$ZIPS/Dataset_UAV123.zip" -d "$RAW"

# uav123_10fps: https://cemse.kaust.edu.sa/ivul/uav123
unzip -q -n "$ZIPS/Dataset_UAV123_10fps.zip" -d "$RAW"

# otb: http://cvlab.hanyang.ac.kr/tracker_benchmark/datasets.html
unzip -q -n "$ZIPS/otb/*.zip" -d "$RAW/OTB"
rm -rf "$RAW/OTB/__MACOSX"

# nfs30, nfs240: http://ci2cv.net/nfs/index.html
unzip -q -n "$ZIPS/nfs/*.zip" -d "$RAW/NFS"

# tc128: http://www.dabi.temple.edu/~hbling/data/TColor-128/TColor-128.html
# Sequences out of any folder around them.
mkdir -p "$RAW/TempleColor128"
unzip -q -n "$ZIPS/Temple-color-128.zip" -d "$ZIPS/tc128"
find "$ZIPS/tc128" -name '*_gt.txt' -printf '%h\0' | xargs -0r mv -t "$RAW/TempleColor128"

# vot: https://www.votchallenge.net/
# Fetched to the workspace ZIPS/vot by its toolkit.
ln -s "$(realpath "$ZIPS/vot/sequences")" "$RAW/VOT"

# didi: https://go.vicos.si/didi
# Sequences out of any folder around them.
mkdir -p "$RAW/DiDi"
unzip -q -n "$ZIPS/didi/*.zip" -d "$ZIPS/didi"
find "$ZIPS/didi" -name groundtruth.txt -printf '%h\0' | xargs -0r mv -t "$RAW/DiDi"

# avist: https://sites.google.com/view/avist-benchmark
# sequences/, anno/ and the flags out of any folder around them.
mkdir -p "$RAW/AVisT"
unzip -q -n "$ZIPS/avist/*.zip" -d "$ZIPS/avist"
find "$ZIPS/avist" -name full_occlusion -printf '%h/sequences\0%h/anno\0%h/full_occlusion\0%h/out_of_view\0' | xargs -0r mv -t "$RAW/AVisT"

# lagot: https://github.com/google-research-datasets/LaGOT
# Its images are those of LaSOT beside it.
unzip -q -n -j "$ZIPS/lagot_got_sot_format.zip" '*_annotations_final.json' -d "$RAW/LaGOT"

# dtb70: https://github.com/flyers/drone-tracking
# Sequences out of any folder around them.
mkdir -p "$RAW/DTB70"
unzip -q -n "$ZIPS/dtb70/*.zip" -d "$ZIPS/dtb70"
find "$ZIPS/dtb70" -name groundtruth_rect.txt -printf '%h\0' | xargs -0r mv -t "$RAW/DTB70"

# uavdt: https://github.com/dataset-ninja/uavdt (links to the authors' files)
unzip -q -n "$ZIPS/UAV-benchmark-S.zip" -d "$RAW/UAVDT"
unzip -q -n "$ZIPS/UAV-benchmark-SOT_v1.0.zip" -d "$RAW/UAVDT"

# visdrone: https://github.com/VisDrone/VisDrone-Dataset
unzip -q -n "$ZIPS/VisDrone2019-SOT-test-dev.zip" -d "$RAW"
