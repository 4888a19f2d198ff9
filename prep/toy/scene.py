"""Plans the toy world's scenes, as arrays over the frames, and renders them, which only warps sprites.

Promise: a scene is a pure function of its key, the world's seed first, on one installation (another OpenCV may differ
in a last bit). A box is the tight box of the object's outline, not cut at the frame and unaffected by what stands
before it; the first frame shows the whole object. Sizes are (width, height), boxes and motion continuous frame pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.toy.looks import REACH, Look, make_ground, make_look, make_occluder
from lorat.prep.toy.motion import Motion, Path2D, crossing, drift, pan, still, wander
from lorat.shards.rng import Draws

Pool = Literal["train", "val", "test"]
POOLS: dict[Pool, range] = {"train": range(0, 1 << 20), "val": range(1 << 20, 2 << 20), "test": range(2 << 20, 3 << 20)}
"""Object ids each kind of split draws from; their look-alikes are as disjoint as they."""


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
    noise: NDArray[np.uint8]  # (height + 32, width + 32, 3) around 128; each frame takes a window of it
    noise_at: NDArray[np.int64]  # (T, 2) where that window begins
    gain: NDArray[np.float64]  # (T,) brightness factor
    defocus: NDArray[np.float64]  # (T,) Gaussian sigma in pixels; 0 is sharp
    exposure: float  # Share of the frame interval the shutter is open: the length of motion blur
    crowd: tuple[int, ...] = ()  # Which layers are annotated together, as one crowd of small objects; stills only

    def __len__(self) -> int:
        return len(self.gain)


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One rendered frame and the truth of its K tracked layers."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB
    boxes: NDArray[np.float64]  # (K, 4) xyxy, not cut at the frame
    pixels: NDArray[np.int64]  # (K,) how many of each object's own pixels lie inside the frame
    in_frame: NDArray[np.float64]  # (K,) share of each object's own pixels that lies inside the frame, 0 … 1
    visible: NDArray[np.float64]  # (K,) share that lies inside the frame with nothing before it, 0 … 1


def plan_scene(
    key: tuple[int | str, ...], pool: Pool, size: tuple[int, int], length: int, leaving: float = 0.1
) -> ToyScene:
    """Plan a sequence of `length` frames: one object of a pool, a share of which leaves the frame for a while,
    look-alikes of it in a quarter of the scenes, strangers in a third, and perhaps an occluder.
    """
    draws, seed = Draws("toy scene", *key), int(key[0])
    object_id = _object(draws, pool)
    side = min(size) / 240 * 28 * (64 / 28) ** draws.uniform()
    motion = wander(draws, size, length, side, leaves=draws.uniform() < leaving)
    target = Layer(make_look(seed, object_id), motion, object_id)
    side = float(np.sqrt(motion.halves[0].prod())) * 2
    others: list[Layer] = []
    for alike in range(1, 1 + (1 + draws.below(2) if draws.uniform() < 0.25 else 0)):
        path = wander(draws, size, length, side * draws.uniform(0.8, 1.2))
        others.append(Layer(make_look(seed, object_id, alike), path, object_id))
    for _ in range(1 + draws.below(2) if draws.uniform() < 0.35 else 0):
        stranger = _object(draws, pool)
        path = wander(draws, size, length, side * draws.uniform(0.6, 1.4))
        others.append(Layer(make_look(seed, stranger), path, stranger))
    before: list[Layer] = []
    behind: list[Layer] = []
    for layer in others:
        if not _meet_at_start(layer, target):
            (before if draws.uniform() < 0.25 else behind).append(layer)
    if length >= 12 and draws.uniform() < 0.15:
        occluder = Layer(make_occluder(draws), crossing(draws, motion, size), None)
        before += [] if _meet_at_start(occluder, target) else [occluder]
    return _dressed(draws, size, (*behind, target, *before), (len(behind),), length)


def plan_still(
    key: tuple[int | str, ...], pool: Pool, size: tuple[int, int], count: int, crowd: bool = False
) -> ToyScene:
    """Plan a picture of `count` tracked objects (fewer where they do not fit) that hardly overlap.
    With `crowd`, a dozen small copies of another one, close to each other, are there too.
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
    tracked = range(len(layers))
    if crowd:
        object_id = _object(draws, pool)
        look, side = make_look(seed, object_id), min(size) / 240 * draws.uniform(10, 16)
        middle = np.array([draws.uniform(side * 4, extent - side * 4) for extent in size])
        for _ in range(8 + draws.below(6)):
            motion = still(draws, size, side)
            at = middle + (draws.uniforms(2) * 2 - 1) * side * 2.5
            layers.append(Layer(look, replace(motion, centres=at[None]), object_id))
    scene = _dressed(draws, size, tuple(layers), tuple(tracked))
    return replace(scene, crowd=tuple(range(len(tracked), len(layers))))


def render(scene: ToyScene) -> Iterator[Frame]:
    """Yield the frames of a scene in order."""
    tracked = np.array(scene.tracked, np.int64)
    for t in range(len(scene)):
        at = np.column_stack([np.eye(2), -scene.ground_path[t]])
        image = cv2.warpAffine(scene.ground, at, scene.size, borderMode=cv2.BORDER_REFLECT)
        painted = [_paste(image, layer, t, scene.exposure) for layer in scene.layers]
        own = np.array([pixels for pixels, _ in painted])[tracked]
        inside = np.array([mask for _, mask in painted], np.bool_).reshape(-1, *image.shape[:2])
        pixels = inside[tracked].sum((1, 2))
        seen = np.array([(inside[k] & ~inside[k + 1 :].any(0)).sum() for k in tracked])
        boxes = np.array([scene.layers[k].box(t) for k in tracked]).reshape(-1, 4)
        # The order of a camera: defocus, then brightness, then noise.
        if scene.defocus[t] > 0.3:
            image = cv2.GaussianBlur(image, (0, 0), scene.defocus[t])
        x, y = scene.noise_at[t]
        noise = scene.noise[y : y + scene.size[1], x : x + scene.size[0]]
        image = cv2.addWeighted(image, scene.gain[t], noise, 1.0, -128.0)
        yield Frame(image, boxes, pixels, in_frame=pixels / own, visible=seen / own)


def _object(draws: Draws, pool: Pool) -> int:
    ids = POOLS[pool]
    return ids[draws.below(len(ids))]


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
    defocus = np.zeros(length)
    if draws.uniform() < 0.25:
        defocus = np.maximum(drift(draws, length, 16) * draws.uniform(2.0, 4.0) - 0.2, 0.0)
    strength = draws.uniform(0.0, 6.0)  # standard deviation of the noise in grey levels, about
    ground = make_ground(draws, large, min(size) / 4)
    path = pan(draws, (large[0] - width, large[1] - height), length) if moving else np.zeros((1, 2))
    amount = (height + 32) * (width + 32) * 3
    raw = draws.words(-(-amount // 4)).view(np.uint8).astype(np.float32)
    triangular = (raw[:amount] + raw[amount : 2 * amount]) / 255 - 1  # deviation 1 / sqrt(6)
    noise = np.rint(triangular * (2.4 * strength) + 128).astype(np.uint8).reshape(height + 32, width + 32, 3)
    noise_at = (draws.uniforms(2 * length).reshape(length, 2) * 33).astype(np.int64)
    gain = 1 + drift(draws, length, 24) * draws.uniform(0.0, 0.5)
    exposure = draws.uniform(0.4, 0.9) if blurred else 0.0
    return ToyScene(size, layers, tracked, ground, path, noise, noise_at, gain, defocus, exposure)


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
    largest, levels = layer.motion.halves[t].max(), layer.look.levels
    # The smallest sprite that need not be enlarged.
    sprite = next((level for level in levels[::-1] if len(level) * REACH >= largest), levels[0])
    linear = layer.motion.matrix(t) / (len(sprite) * REACH)
    # warpAffine's coordinates name pixel centres: continuous position minus one half.
    shift = layer.motion.centres[t] - 0.5 - np.array(corner) - linear @ np.full(2, len(sprite) / 2 - 0.5)
    return cv2.warpAffine(sprite, np.column_stack([linear, shift]), size, flags=cv2.INTER_LINEAR)


def _line(smear: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the kernel of a straight motion of `smear` pixels, centred."""
    reach = int(np.abs(smear).max() / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    ends = np.rint((reach + np.array([-smear / 2, smear / 2])) * 16).astype(int).tolist()
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, shift=4)
    weights = kernel.astype(np.float32)
    return weights / weights.sum()
