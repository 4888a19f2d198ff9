"""Images in and out: JPEG through TurboJPEG, everything else through OpenCV.

Images are uint8 (H, W, 3) RGB. EXIF orientation is ignored, because every data set's boxes are drawn on the stored
pixels; so are the lower 8 of 16 bits a pixel, unless a `Range16` says which counts matter: `examine` tells of both.
Where the turbojpeg library is missing, OpenCV's codec does the work after one warning. A damaged or truncated image is
an `ImageError`, never a half grey picture.
"""

import ctypes
import functools
import hashlib
import logging
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import turbojpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lorat.shards.base.disk import explain_reading
from lorat.shards.base.errors import UserError

_LOG = logging.getLogger("lorat")
_OPENCV_READ = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_END_OF_IMAGE = b"\xff\xd9"
_TURNED = re.compile(  # EXIF's orientation, of either byte order
    rb"(?s)(?:Exif\0\0|eXIf)..\0?\*.{0,300}?(?:\x12\x01\x03\0\x01\0\0\0|\x01\x12\0\x03\0\0\0\x01\0)([\x02-\x08])"
)


class ImageError(UserError):
    """An image file that is missing, damaged, truncated, or no image."""


class Range16(NamedTuple):
    """Which counts of 16-bit images become 0 and 255, in all frames of a sequence; images of 8 bits stay as they are.
    The empty range, ``auto``, stands for that of the sequence's first frame without its outermost thousandths.
    """

    low: int = 0
    high: int = 0

    @staticmethod
    def parse(text: str) -> "Range16":
        """Read ``7000,8200`` or ``auto``; a `UserError` if it is neither."""
        low, _, high = text.replace("auto", "0,1").partition(",")
        if low.isdecimal() and high.isdecimal() and int(low) < int(high):
            return Range16() if text == "auto" else Range16(int(low), int(high))
        raise UserError(f"--range16 {text}: write two counts, the lower first (7000,8200), or auto")

    def fitted(self, counts: NDArray[Any]) -> "Range16":
        """Return the range, or instead of ``auto`` that of these counts."""
        low, high = (self.low, self.high) if self.high else map(int, np.percentile(counts, (0.1, 99.9)))
        return Range16(low, max(low + 1, high))

    def stretch(self, counts: NDArray[Any]) -> NDArray[np.uint8]:
        """Return uint16 counts of any shape on 0 … 255, cut at the range; what is uint8 as it is."""
        if counts.dtype != np.uint16:
            return counts
        return np.interp(np.arange(1 << 16), self, (0, 255)).round().astype(np.uint8)[counts]


_WHAT = "Counts of 16-bit images that become 0 and 255; auto: those of a sequence's first.  [default: the upper 8 bits]"
RANGE16: Any = {"metavar": "LOW,HIGH|auto", "help": _WHAT}  # of the option ``--range16``


class _StrictTurboJPEG(turbojpeg.TurboJPEG):
    """TurboJPEG that raises where the library only warns and returns a half grey picture."""

    def _TurboJPEG__report_error(self, handle: Any) -> None:
        reason = self._TurboJPEG__get_error_string(handle)
        # Stray bytes between segments are common in scraped photographs and harm no pixel.
        if "extraneous bytes" not in reason:
            raise OSError(reason)


@functools.cache
def _turbo() -> Any | None:
    """Return the process's TurboJPEG, or None where the library is missing."""
    try:
        return _StrictTurboJPEG()
    except (OSError, RuntimeError) as error:
        if multiprocessing.parent_process() is None:  # once a command, not once a worker
            what = f"turbojpeg is not usable ({' '.join(str(error).split())[:120]}); OpenCV's codec does the work"
            remedy = "install libturbojpeg (Debian and Ubuntu: apt-get install libturbojpeg0)"
            _LOG.warning("%s, more slowly; %s", what, remedy)
        return None


def codec_name() -> str:
    """Return the JPEG library's name and version, which decides the bytes of a shard. ``libjpeg-turbo-2.1.5`` through
    TurboJPEG, ``opencv-4.10.0-libjpeg-turbo-3.0.3`` through OpenCV.
    """
    if (turbo := _turbo()) is None:
        built_in = re.search(r"JPEG:.*?(libjpeg[\w-]*).*?(\d[\d.]*)", cv2.getBuildInformation())
        return "-".join([f"opencv-{cv2.__version__}", *(built_in.groups() if built_in else ())])
    found = _LoadedFrom()
    function = ctypes.cast(turbo._TurboJPEG__init_compress, ctypes.c_void_p)
    if not ctypes.CDLL(None).dladdr(function, ctypes.byref(found)) or not found.file:
        raise RuntimeError("the system does not say which file the turbojpeg library is")
    return _library_name(Path(os.fsdecode(found.file)))


class _LoadedFrom(ctypes.Structure):
    """What dladdr(3) tells of an address: a file and its base, a symbol and its address."""

    _fields_ = tuple(zip(("file", "base", "name", "at"), (ctypes.c_char_p, ctypes.c_void_p) * 2, strict=True))


@functools.cache
def _library_name(file: Path) -> str:
    """Return the name of a TurboJPEG library: its version, or a hash where it carries none. The interface has no call
    for the version, but the library holds it for its error messages.
    """
    code = file.read_bytes()
    version = re.search(rb"libjpeg-turbo version (\d[\w.]*)", code)
    return f"libjpeg-turbo-{version[1].decode() if version else hashlib.sha256(code).hexdigest()[:12]}"


def encode(rgb: NDArray[np.uint8], quality: int = 92) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a baseline JPEG with 4:2:0 chroma, quality 1 … 100."""
    rgb = np.ascontiguousarray(rgb)
    if (turbo := _turbo()) is not None:
        return turbo.encode(rgb, quality, turbojpeg.TJPF_RGB, turbojpeg.TJSAMP_420)
    chroma = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, quality, *chroma))
    if not done:
        raise RuntimeError(f"OpenCV could not encode an image of shape {rgb.shape}")
    return data.tobytes()


def decode(data: bytes, name: str = "image", range16: Range16 | None = None) -> NDArray[np.uint8]:
    """Decode an image file's bytes to (H, W, 3) uint8 RGB; grey and CMYK become RGB, 16 bits a pixel as `range16` says.
    An `ImageError` calls what is no image, or a damaged or truncated one, by its `name`.
    """
    is_jpeg, turbo = data[:2] == b"\xff\xd8", _turbo()
    if turbo is not None and is_jpeg:
        try:
            *_, colours = turbo.decode_header(data)
            if colours not in (turbojpeg.TJCS_CMYK, turbojpeg.TJCS_YCCK):
                return turbo.decode(data, turbojpeg.TJPF_RGB)
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: does not decode ({error}); replace the file") from None
    # OpenCV fills what a truncated JPEG lacks with grey, so the end marker is asked for first.
    whole = not is_jpeg or _END_OF_IMAGE in data[-1024:]
    raw = np.frombuffer(data, dtype=np.uint8)
    bgr: Any = cv2.imdecode(raw, _OPENCV_READ | (cv2.IMREAD_ANYDEPTH if range16 else 0)) if whole and raw.size else None
    if bgr is None:
        raise ImageError(f"{name}: does not decode (damaged or no image); replace the file")
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return range16.fitted(rgb).stretch(rgb) if range16 else rgb


def read_image(path: Path, range16: Range16 | None = None) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8 RGB; errors as of `decode`, or for a missing file."""
    with explain_reading(path, "restore the image", ImageError):
        data = path.read_bytes()
    return decode(data, str(path), range16)


@functools.lru_cache(maxsize=4096)
def range_of(first: Path, range16: Range16) -> Range16:
    """Return the range of a sequence by its first frame, for all of it; an `ImageError` if that does not decode."""
    if range16.high:
        return range16
    if (counts := cv2.imread(str(first), _OPENCV_READ | cv2.IMREAD_ANYDEPTH)) is None:
        raise ImageError(f"{first}: does not decode, but --range16 auto goes by it; replace the file")
    return range16.fitted(counts)


def examine(path: Path, range16: Range16 | None = None) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """Return an image as `read_image` does, and what is lost or passed over of it: kind → in words."""
    with explain_reading(path, "restore the image", ImageError):
        data = path.read_bytes()
    image, odd = decode(data, str(path), range16), dict[str, str]()
    if (deep := data[12:16] == b"IHDR" and data[24] == 16) and not range16:
        what = f"16 bits a pixel; only the upper 8 are read ({image.min()} … {image.max()} of 255)"
        odd["16 bits"] = f"{what}; --range16 of lorat-prep build and lorat-eval stretches them"
    elif range16 and not deep:
        odd["8 bits"] = "8 bits a pixel, which --range16 leaves as they are"
    if turned := _TURNED.search(data[: 1 << 16]):
        odd["orientation"] = f"asks to be turned (EXIF {turned[1][0]}); images are used as stored"
    if (image == image[0, 0]).all():
        odd["one colour"] = f"one colour ({', '.join(map(str, image[0, 0]))}) all over"
    return image, odd


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from the header of a JPEG, PNG or BMP, reading as little as possible. An `ImageError` if
    the file is missing, or its header is damaged or of another format.
    """
    with explain_reading(path, "restore the image", ImageError), path.open("rb") as file:
        try:
            return Image.open(file, formats=("JPEG", "PNG", "BMP")).size
        except (UnidentifiedImageError, Image.DecompressionBombError):
            raise ImageError(f"{path}: no readable JPEG, PNG or BMP header; restore the image") from None
