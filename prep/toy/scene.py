"""Renders the toy world's scenes: frames with exact boxes and the share of the object in sight.

Promise: a scene is a pure function of its key, so scenes can be rendered in any order and in any process with the same
result on the same installation (another OpenCV may differ in a last bit). A box is the tight box of the object's own
outline in continuous frame pixels, not cut at the frame and unaffected by what stands before it; the first frame shows
the whole object. Objects of the pools train, val and test are disjoint, look-alikes included.

Motion is planned first, as arrays over the frames; rendering then only warps sprites. Sizes are (width, height) in
pixels; keys are the toy world's seed first, then what names the scene.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.toy.looks import Look, make_ground, make_look, make_occluder
from lorat.prep.toy.motion import Motion, Path2D, crossing, drift, pan, still, wander
from lorat.shards.rng import Draws

Pool = Literal["train", "val", "test"]
POOLS: dict[Pool, range] = {"train": range(0, 1 << 20), "val": range(1 << 20, 2 << 20), "test": range(2 << 20, 3 << 20)}
"""Object ids each kind of split draws from."""


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """One thing that moves through a scene of T frames."""

    look: Look
    motion: Motion
    object_id: int | None  # None for occluders, which are no objects

    def box(self, t: int) -> NDArray[np.float64]:
        """Return the tight box (4,) xyxy of the outline at frame t, not cut at the frame."""
        points = self.motion.place(self.look.outline, t)
        return np.concatenate([points.min(0), points.max(0)])


@dataclass(frozen=True, eq=False, slots=True)
class ToyScene:
    """Everything that decides the pixels of T frames."""

    size: tuple[int, int]
    layers: tuple[Layer, ...]  # From the back to the front
    tracked: tuple[int, ...]  # Which layers are annotated
    ground: NDArray[np.uint8]  # (height, width, 3), larger than a frame where the ground moves
    ground_path: Path2D  # (T, 2) the ground pixel under the frame's top left corner
    noise: NDArray[np.uint8]
    """(height + 32, width + 32, 3) around 128; each frame takes a window of it."""
    noise_at: NDArray[np.int64]  # (T, 2) where that window begins
    gain: NDArray[np.float64]  # (T,) brightness factor
    defocus: NDArray[np.float64]  # (T,) Gaussian sigma in pixels; 0 is sharp
    exposure: float  # Share of the frame interval the shutter is open: the length of motion blur
    crowd: tuple[int, ...] = ()
    """Which layers are annotated together, as one crowd of small objects; stills only."""

    def __len__(self) -> int:
        return len(self.gain)


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One rendered frame and the truth of its K tracked layers."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB
    boxes: NDArray[np.float64]  # (K, 4) xyxy, not cut at the frame
    pixels: NDArray[np.int64]  # (K,) how many of each object's own pixels lie inside the frame
    in_frame: NDArray[np.float64]
    """(K,) share of each object's own pixels that lies inside the frame, 0 … 1."""
    visible: NDArray[np.float64]
    """(K,) share that lies inside the frame with nothing before it, 0 … 1."""


def plan_scene(key: tuple[int | str, ...], pool: Pool, size: tuple[int, int], length: int) -> ToyScene:
    """Plan a sequence of `length` frames: one object of a pool, distractors and occluders."""
    draws, seed = Draws("toy scene", *key), int(key[0])
    object_id = _object(draws, pool)
    side = min(size) / 240 * 28 * (64 / 28) ** draws.uniform()
    motion = wander(draws, size, length, side, leaves=draws.uniform() < 0.1)
    target = Layer(make_look(seed, object_id), motion, object_id)
    before: list[Layer] = []
    behind: list[Layer] = []
    for layer in _distractors(draws, seed, target, pool, size):
        (before if draws.uniform() < 0.25 else behind).append(layer)
    if length >= 12 and draws.uniform() < 0.15:
        look = make_occluder(draws)
        before.append(Layer(look, crossing(draws, motion, size), None))
    before = [layer for layer in before if not _meet_at_start(layer, target)]
    return _dressed(draws, size, (*behind, target, *before), (len(behind),), length)


def plan_still(
    key: tuple[int | str, ...], pool: Pool, size: tuple[int, int], count: int, crowd: bool = False
) -> ToyScene:
    """Plan a picture of `count` tracked objects (fewer where they do not fit) that hardly overlap.

    With `crowd`, a crowd of small copies of another one is there too.
    """
    draws, seed = Draws("toy still", *key), int(key[0])
    layers: list[Layer] = []
    for _ in range(count * 4):
        if len(layers) == count:
            break
        side = min(size) / 240 * 26 * (80 / 26) ** draws.uniform()
        motion = still(draws, size, side)
        object_id, alike = _object(draws, pool), 0
        if layers and draws.uniform() < 0.25:
            object_id, alike = int(layers[-1].object_id or 0), 1 + draws.below(4)
        layer = Layer(make_look(seed, object_id, alike), motion, object_id)
        if not any(_meet_at_start(layer, other, margin=-0.1) for other in layers):
            layers.append(layer)
    tracked = tuple(range(len(layers)))
    if crowd:
        layers += _crowd(draws, seed, pool, size)
    scene = _dressed(draws, size, tuple(layers), tracked)
    return replace(scene, crowd=tuple(range(len(tracked), len(layers))))


def render(scene: ToyScene) -> Iterator[Frame]:
    """Yield the frames of a scene in order."""
    tracked = np.array(scene.tracked, np.int64)
    for t in range(len(scene)):
        x, y = scene.ground_path[t]
        at = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
        image = cv2.warpAffine(scene.ground, at, scene.size, borderMode=cv2.BORDER_REFLECT)
        painted = [_paste(image, layer, t, scene.exposure) for layer in scene.layers]
        own = np.array([pixels for pixels, _ in painted])[tracked]
        inside = np.array([mask for _, mask in painted], np.bool_).reshape(-1, *image.shape[:2])
        pixels = inside[tracked].sum((1, 2))
        seen = [(inside[k] & ~inside[k + 1 :].any(0)).sum() for k in tracked]
        yield Frame(
            _exposed(scene, image, t),
            np.array([scene.layers[k].box(t) for k in tracked]).reshape(-1, 4),
            pixels,
            in_frame=pixels / own,
            visible=np.array(seen) / own,
        )


def _object(draws: Draws, pool: Pool) -> int:
    ids = POOLS[pool]
    return ids[draws.below(len(ids))]


def _distractors(draws: Draws, seed: int, target: Layer, pool: Pool, size: tuple[int, int]) -> list[Layer]:
    """Return look-alikes in a quarter of the scenes and strangers in a third of them."""
    length = len(target.motion.centres)
    side = float(np.sqrt(target.motion.halves[0].prod())) * 2
    layers = []
    own = int(target.object_id or 0)
    for alike in range(1, 1 + (1 + draws.below(2) if draws.uniform() < 0.25 else 0)):
        motion = wander(draws, size, length, side * draws.uniform(0.8, 1.2))
        layers.append(Layer(make_look(seed, own, alike), motion, own))
    for _ in range(1 + draws.below(2) if draws.uniform() < 0.35 else 0):
        stranger = _object(draws, pool)
        motion = wander(draws, size, length, side * draws.uniform(0.6, 1.4))
        layers.append(Layer(make_look(seed, stranger), motion, stranger))
    return [layer for layer in layers if not _meet_at_start(layer, target)]


def _crowd(draws: Draws, seed: int, pool: Pool, size: tuple[int, int]) -> list[Layer]:
    """Return a dozen small copies of one object close to each other."""
    object_id = _object(draws, pool)
    look = make_look(seed, object_id)
    side = min(size) / 240 * draws.uniform(10, 16)
    middle = np.array([draws.uniform(side * 4, extent - side * 4) for extent in size])
    layers = []
    for _ in range(8 + draws.below(6)):
        motion = still(draws, size, side)
        at = middle + (draws.uniforms(2) * 2 - 1) * side * 2.5
        layers.append(Layer(look, replace(motion, centres=at[None]), object_id))
    return layers


def _meet_at_start(layer: Layer, other: Layer, margin: float = 0.1) -> bool:
    """Tell whether two layers' boxes, grown by a share of their sides, meet in the first frame."""
    a, b = layer.box(0), other.box(0)
    slack = margin * np.minimum(a[2:] - a[:2], b[2:] - b[:2])
    return bool(np.all(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) > -slack))


def _dressed(
    draws: Draws, size: tuple[int, int], layers: tuple[Layer, ...], tracked: tuple[int, ...], length: int = 1
) -> ToyScene:
    """Add ground, light, noise and optics to planned layers, from the back to the front."""
    width, height = size
    moving = length > 1
    large = (width * 3 // 2, height * 3 // 2) if moving else size
    blurred = draws.uniform() < 0.25
    soft = np.zeros(length)
    if draws.uniform() < 0.25:
        soft = np.maximum(drift(draws, length, 16) * draws.uniform(2.0, 4.0) - 0.2, 0.0)
    strength = draws.uniform(0.0, 6.0)
    room = (large[0] - width, large[1] - height)
    return ToyScene(
        size=size,
        layers=layers,
        tracked=tracked,
        ground=make_ground(draws, large, min(size) / 4),
        ground_path=pan(draws, room, length) if moving else np.zeros((1, 2)),
        noise=_noise(draws, (height + 32, width + 32, 3), strength),
        noise_at=(draws.uniforms(2 * length).reshape(length, 2) * 33).astype(np.int64),
        gain=1 + drift(draws, length, 24) * draws.uniform(0.0, 0.5),
        defocus=soft,
        exposure=draws.uniform(0.4, 0.9) if blurred else 0.0,
    )


def _noise(draws: Draws, shape: tuple[int, int, int], strength: float) -> NDArray[np.uint8]:
    """Return noise around 128 with a standard deviation of about `strength` grey levels."""
    amount = int(np.prod(shape))
    raw = draws.words(-(-amount // 4)).view(np.uint8).astype(np.float32)
    triangular = (raw[:amount] + raw[amount : 2 * amount]) / 255 - 1  # deviation 1 / sqrt(6)
    return np.rint(triangular * (2.4 * strength) + 128).astype(np.uint8).reshape(shape)


def _paste(image: NDArray[np.uint8], layer: Layer, t: int, exposure: float) -> tuple[int, NDArray[np.bool_]]:
    """Paint a layer into the image; return how many pixels it has and which of the frame's."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.bool_)
    x1, y1, x2, y2 = layer.box(t)
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return 1, mask
    smear = layer.motion.velocity(t) * exposure
    pad = 2 + int(np.abs(smear).max() / 2)
    left, top = int(np.floor(x1)) - pad, int(np.floor(y1)) - pad
    columns, rows = int(np.ceil(x2)) + pad - left, int(np.ceil(y2)) + pad - top
    sprite = _warped(layer, t, (left, top), (columns, rows))
    own = sprite[..., 3] > 127
    if np.abs(smear).max() >= 2:
        sprite = cv2.filter2D(sprite, -1, _line(smear), borderType=cv2.BORDER_CONSTANT)
    here = np.s_[max(0, top) : top + rows, max(0, left) : left + columns]
    there = np.s_[max(0, -top) : height - top, max(0, -left) : width - left]
    mask[here] = own[there]
    rest = (255 - sprite[there][..., 3:]).astype(np.uint16)
    shade = (image[here] * rest + 127) // 255 + sprite[there][..., :3]
    image[here] = np.minimum(shade, 255)
    return max(int(own.sum()), 1), mask


def _warped(layer: Layer, t: int, corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the layer's sprite at frame t in a window of the frame, (h, w, 4) premultiplied."""
    largest = float(layer.motion.halves[t].max())
    level = 0
    while level + 1 < len(layer.look.levels) and Look.reach(level + 1) >= largest:
        level += 1
    sprite = layer.look.levels[level]
    linear = layer.motion.matrix(t) / Look.reach(level)
    # warpAffine's coordinates name pixel centres: continuous position minus one half.
    centre = np.full(2, len(sprite) / 2 - 0.5)
    shift = layer.motion.centres[t] - 0.5 - np.array(corner) - linear @ centre
    return cv2.warpAffine(sprite, np.column_stack([linear, shift]), size, flags=cv2.INTER_LINEAR)


def _line(smear: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the kernel of a straight motion of `smear` pixels, centred."""
    reach = int(np.abs(smear).max() / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    ends = np.rint((reach + np.array([-smear / 2, smear / 2])) * 16).astype(int).tolist()
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, shift=4)
    weights = kernel.astype(np.float32)
    return weights / weights.sum()


def _exposed(scene: ToyScene, image: NDArray[np.uint8], t: int) -> NDArray[np.uint8]:
    """Apply defocus, then brightness, then noise: the order of a camera."""
    sigma = float(scene.defocus[t])
    soft = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.3 else image
    width, height = scene.size
    x, y = scene.noise_at[t]
    noise = scene.noise[y : y + height, x : x + width]
    return cv2.addWeighted(soft, float(scene.gain[t]), noise, 1.0, -128.0)
