"""Small real videos for tests, and containers changed in place as other programs write them."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from tests.evaluate.conftest import SIZE, picture

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
ENCODERS = {".mkv": ("libx264", {"bf": "2"}), ".webm": ("libvpx-vp9", {})}


def write_video(path: Path, frames: int = 12, fps: float = 29.97) -> Path:
    """Write the pictures of conftest as a video of 96 x 72 pixels."""
    pictures = [picture(index % 20, 0) for index in range(frames)]
    if path.suffix in ENCODERS:
        codec, options = ENCODERS[path.suffix]
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, Fraction(fps).limit_denominator(1000), options=options)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for image in pictures:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            file.mux(stream.encode())
        return path
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix]), fps, SIZE)
    assert writer.isOpened()
    for image in pictures:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def read_video(path: Path) -> tuple[float, list[np.ndarray]]:
    """Return a video's frame rate and all its frames, RGB."""
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return rate, frames


def frames_of(path: Path) -> list[np.ndarray]:
    return read_video(path)[1]


def times_of(path: Path) -> list[float]:
    """Return when each frame of a video is shown, in seconds."""
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(video=0)]


def damage(path: Path, frames: list[int]) -> None:
    """Fill frames of an .avi with zeros."""
    data, places = bytearray(path.read_bytes()), []
    at = data.index(b"movi")  # the header names the stream too
    while (at := data.find(b"00dc", at + 4)) >= 0:
        places.append(at)
    for frame in frames:
        begin = places[frame] + 8
        size = int.from_bytes(data[begin - 4 : begin], "little")
        data[begin : begin + size] = bytes(size)
    path.write_bytes(data)


def turn(path: Path, a: int = 0, b: int = 1, c: int = -1, d: int = 0) -> None:
    """Let an .mp4 say that players must turn it, by default clockwise: (x, y) goes to (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, SIZE[1] << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in values)
    path.write_bytes(data)


def slow_down(path: Path, frames: int, first: int) -> None:
    """Let the frames of an .mp4 from `first` on last three times as long."""
    data = path.read_bytes()
    at = data.index(b"stts")
    delta = int.from_bytes(data[at + 16 : at + 20], "big")
    entries = ((first, delta), (frames - first, 3 * delta))
    table = b"".join(n.to_bytes(4, "big") for entry in entries for n in entry)
    data = bytearray(
        data[: at + 8] + (2).to_bytes(4, "big") + table + data[at + 20 :]  # 8 bytes more
    )
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        size = data.rindex(name, 0, at + 4) - 4
        grown = int.from_bytes(data[size : size + 4], "big") + 8
        data[size : size + 4] = grown.to_bytes(4, "big")
    played = data.index(b"elst") + 12
    data[played : played + 4] = (3 * int.from_bytes(data[played : played + 4], "big")).to_bytes(4, "big")
    assert data.index(b"mdat") < data.index(b"moov"), "offsets of frames stay as they are"
    path.write_bytes(data)


def cut(path: Path, begin: float, out: Path) -> Path:
    """Cut an .mp4 from a time on without encoding it anew: packets from the key frame before are kept, and hidden."""
    with av.open(str(path)) as source, av.open(str(out), "w", options={"use_editlist": "1"}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts -= round(begin / stream.time_base)
                packet.dts -= round(begin / stream.time_base)
                packet.stream = copy
                target.mux(packet)
    return out
