"""Training on shards is training on frames.

Crops that training samples from stored windows (shrunk, JPEG at quality 92) are compared with crops cut out of the
original frames by the same draw. Distances are mean absolute differences of a crop's pixels on 0 … 255. Run with -s to
see the distributions that docs/shards.md quotes.

- ``frame``: the frame, averaged over areas where the build shrinks it, then cropped.
- ``area``: the crop averaged over areas straight from the frame, down to the crop's own scale.
- ``published``: bilinear from the frame, not antialiased: what the tracker does by default.
- ``shards``: what the tracker does with ``lorat-eval --resize shards``.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat.evaluate.track.memory.crops import crop_around, search_scale, template_scale
from lorat.prep.annotations.cleaning import clean
from lorat.prep.pairs.crop import CropOptions, cut_sample
from lorat.prep.pairs.draw import draw_sample
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.registry import parse_name, read_clips
from lorat.shards.pixels.geometry import Adjusted, CropTransform, adjust, crop_frame, crop_transform
from lorat.shards.pixels.jitter import Jitter, jitter_window
from lorat.shards.pixels.jpeg import decode, encode, read_image
from lorat.shards.pixels.resample import stored_by
from lorat.shards.sample import StoredImage, from_members, sample_key, to_members
from lorat.train.data.samples import training_crop

DRAWS = 4
SERVED = {224: (112, 4.0), 378: (196, 5.0)}  # search size → template size, search area factor


@dataclass(frozen=True)
class Case:
    """A crop from a shard, and the frame that it shows."""

    crop: np.ndarray
    box: np.ndarray
    pixels_before_jpeg: np.ndarray
    stored: StoredImage
    frame: np.ndarray
    true_box: np.ndarray
    adjusted: Adjusted
    size: int
    pad: np.ndarray
    missing: float


# -- the frames


def texture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """1/f noise, (h, w, 3) float on 0 … 255, its channels alike as those of photographs are."""
    height, width = shape
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / max(shape))
    layers = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal(shape)) * amplitude
        layer = np.fft.irfft2(noise, s=shape)
        layers.append(layer / layer.std())
    grey, a, b = layers
    colours = np.stack([grey + 0.3 * a, grey, grey + 0.3 * b], axis=-1)
    return rng.uniform(60, 190, 3) + rng.uniform(15, 45) * colours


def picture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Textured shapes before a texture: edges everywhere and detail at every scale, RGB uint8."""
    width, height = size
    image = texture((height, width), rng)
    for _ in range(40):
        side = rng.uniform(0.03, 0.4) * width
        mask = np.zeros((height, width), dtype=np.uint8)
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = (int(side * rng.uniform(0.2, 0.6)) + 1, int(side * rng.uniform(0.2, 0.6)) + 1)
        cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
        weight = mask[..., None] / 255.0
        shift = rng.integers(0, (height, width))
        image += weight * (np.roll(image, shift, (0, 1)) * 0.7 + rng.uniform(-20, 90, 3) - image)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Still clips of 640x360, 1280x720 and 1920x1080 with objects of 5 to 40 % of the width."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("pictures")
    clips = []
    for number, size in enumerate([(640, 360), (1280, 720), (1920, 1080)] * 2):
        (folder / f"{number}.jpg").write_bytes(encode(picture(size, rng), 95))
        boxes = []
        for _ in range(8):
            w = rng.uniform(0.05, 0.4) * size[0]
            h = min(w * np.exp(rng.normal(0, 0.4)), 0.8 * size[1])
            x, y = rng.uniform(0, size[0] - w), rng.uniform(0, size[1] - h)
            boxes.append(Track(np.array([[x, y, x + w, y + h]]), np.ones(1, dtype=bool)))
        files = FrameFiles(folder, [number], "%d.jpg")
        clips.append(Clip("toy", "train", str(number), files, tuple(boxes), 1, size=size))
    return clips


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Clip]:
    folder = shared / "real" / "coco"
    if not folder.is_dir():
        pytest.skip("no photographs here")
    dataset, split = parse_name("coco-train")
    clips = (replace(c, size=c.frame_size()) for c in read_clips(dataset, split, folder))
    return [kept for clip in clips if (kept := clean(clip, clip.frame_size())) is not None]


# -- the crops


def cases(clips: Sequence[Clip], search_size: int, pairs: int) -> Iterator[Case]:
    """Cut pairs as a build does, read them back, and sample crops as training does."""
    template_size, factor = SERVED[search_size]
    options = CropOptions(serve=search_size)
    rng = np.random.default_rng(1)
    for number in range(pairs):
        pair = draw_sample(clips, "toy-train", 42, number)
        clip = clips[pair.clip]
        sample = cut_sample(clip, pair, sample_key("toy", "train", number), options)
        sample = from_members(to_members(sample), "here")
        frame, box = read_image(clip.frames[0]), clip.tracks[pair.track].boxes[0]
        for _ in range(DRAWS):
            window = jitter_window(sample.searches[0].box, factor, search_size, rng, Jitter())
            if window is not None:
                yield case(sample.searches[0], frame, box, window, search_size)
        nominal = crop_transform(sample.templates[0].box, 2.0, (template_size, template_size))
        yield case(sample.templates[0], frame, box, nominal, template_size)


def case(stored: StoredImage, frame: np.ndarray, box: np.ndarray, window: CropTransform, size: int) -> Case:
    crop, crop_box, missing = training_crop(stored, decode(stored.jpeg), window, size)
    adjusted = adjust(window, stored.frame_size, (size, size))
    cut = frame[stored.origin[1] : stored.window[1], stored.origin[0] : stored.window[0]]
    small = cv2.resize(cut, stored.size, interpolation=cv2.INTER_AREA)
    before, _, _ = training_crop(stored, small, window, size)
    pad = np.clip(np.rint(stored.mean), 0, 255)
    return Case(crop, crop_box, before, stored, frame, box, adjusted, size, pad, missing)


def from_frame(case: Case) -> np.ndarray:
    """Average the whole frame over areas to the stored scale, then crop it bilinearly."""
    height, width = case.frame.shape[:2]
    stored = case.stored
    shrink = [stored.size[k] / (stored.window[k] - stored.origin[k]) for k in (0, 1)]
    small_size = (max(1, round(width * shrink[0])), max(1, round(height * shrink[1])))
    small = cv2.resize(case.frame, small_size, interpolation=cv2.INTER_AREA).astype(np.float32)
    out = np.empty((case.size, case.size, 3), dtype=np.float32)
    out[:] = case.pad
    x1, y1, x2, y2 = case.adjusted.covered
    positions = []
    for axis, count in ((0, x2 - x1), (1, y2 - y1)):
        low, high = case.adjusted.source[axis], case.adjusted.source[axis + 2]
        at = low + (np.arange(count) + 0.5) * (high - low) / count
        at = np.clip(at, low + 0.5, high - 0.5) * small_size[axis] / (width, height)[axis] - 0.5
        positions.append(at.astype(np.float32))
    columns, rows = np.meshgrid(*positions)
    border = cv2.BORDER_REPLICATE
    out[y1:y2, x1:x2] = cv2.remap(small, columns, rows, cv2.INTER_LINEAR, borderMode=border)
    return out


def averaged(case: Case) -> np.ndarray:
    """Average the source part over areas to the crop's own scale, where that shrinks it."""
    out = np.empty((case.size, case.size, 3), dtype=np.float32)
    out[:] = case.pad
    x1, y1, x2, y2 = case.adjusted.covered
    sx1, sy1, sx2, sy2 = case.adjusted.source
    part = case.frame[sy1:sy2, sx1:sx2].astype(np.float32)
    smaller = (min(x2 - x1, sx2 - sx1), min(y2 - y1, sy2 - sy1))
    part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)
    out[y1:y2, x1:x2] = cv2.resize(part, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    return out


def published(case: Case) -> np.ndarray:
    return crop_frame(case.frame, case.adjusted, (case.size, case.size), case.pad)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).mean())


def report(title: str, values: dict[str, list[float]]) -> None:
    print(f"\n{title}: quantiles 10, 50, 90, 99, 100 %")
    for name, distances in values.items():
        quantiles = np.quantile(distances, [0.1, 0.5, 0.9, 0.99, 1.0]).round(2).tolist()
        mean = float(np.mean(distances))
        less = float((np.array(distances) < 4.0).mean())
        print(f"  {name:30s} {len(distances):5d} mean {mean:5.2f} {quantiles} below 4: {less:.1%}")


def measure(clips: Sequence[Clip], search_size: int, pairs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for one in cases(clips, search_size, pairs):
        if one.missing > 0 or one.adjusted.covered is None:
            continue  # the build reports how often a draw leaves the stored window
        frame, area, as_published = from_frame(one), averaged(one), published(one)
        role = "search  " if one.size == search_size else "template"
        found[f"{role} shard - frame"].append(distance(one.crop, frame))
        found[f"{role} same, no JPEG"].append(distance(one.pixels_before_jpeg, frame))
        found[f"{role} shard - area"].append(distance(one.crop, area))
        found[f"{role} shard - published"].append(distance(one.crop, as_published))
        found[f"{role} frame - published"].append(distance(frame, as_published))
        found[f"{role} area - published"].append(distance(area, as_published))
    return found


@pytest.mark.parametrize("search_size", SERVED)
@pytest.mark.parametrize(("kind", "pairs"), [("pictures", 60), ("photographs", 100)])
def test_crops_from_shards_equal_those_from_frames(request, kind, pairs, search_size):
    found = measure(request.getfixturevalue(kind), search_size, pairs)
    report(f"{kind}, search {search_size}", found)
    for role, mostly in (("search  ", 0.9), ("template", 0.8)):
        distances = np.array(found[f"{role} shard - frame"])
        assert len(distances) >= 60
        assert distances.mean() < 2.5
        assert (distances < 4.0).mean() > mostly  # the rest is JPEG on dense texture
        before_jpeg = np.array(found[f"{role} same, no JPEG"])
        assert before_jpeg.mean() < 1.0
        assert (before_jpeg < 4.0).mean() > 0.98


def test_boxes_from_shards_equal_those_from_frames(pictures):
    for one in cases(pictures, 224, pairs=48):
        expected = one.adjusted.transform.apply(one.true_box)
        np.testing.assert_allclose(one.box, expected, atol=2e-3)  # JSON holds four decimals


@pytest.mark.parametrize("search_size", SERVED)
def test_tracking_can_cut_crops_as_training_on_shards_sees_them(pictures, search_size):
    """The windows that tracking looks at: centred on the object, not jittered."""
    options = CropOptions(serve=search_size)
    stored = stored_by(asdict(options))
    template_size, factor = SERVED[search_size]
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(48):
        pair = draw_sample(pictures, "toy-train", 42, number)
        clip = pictures[pair.clip]
        frame, size = read_image(clip.frames[0]), clip.frame_size()
        sample = cut_sample(clip, pair, sample_key("toy", "train", number), options)
        search, template = sample.searches[0], sample.templates[0]
        for role, image, f, side, scale in (
            ("search", search, factor, search_size, search_scale(search.box, size, stored)),
            ("template", template, 2.0, template_size, template_scale(template.box, size, stored)),
        ):
            window = crop_transform(image.box, f, (side, side))
            trained, box, missing = training_crop(image, decode(image.jpeg), window, side)
            assert missing == 0.0
            for name, how in (("published", None), ("shards", scale)):
                crop, transform = crop_around(frame, image.box, f, side, image.mean, how)
                np.testing.assert_array_equal(transform.apply(np.asarray(image.box)), box)
                found[f"{role}: training - {name}"].append(distance(trained, crop))
    report(f"crops around the object, search {search_size}", found)
    for role in ("search", "template"):
        agreeing = found[f"{role}: training - shards"]
        assert np.mean(agreeing) < 3.0 and max(agreeing) < 6.0
        assert np.mean(agreeing) < 0.7 * np.mean(found[f"{role}: training - published"])
