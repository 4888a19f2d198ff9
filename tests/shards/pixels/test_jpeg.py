"""Images decode to RGB of their own size, and damage is an error that names the file."""

import re

import cv2
import numpy as np
import pytest

from lorat.shards.base.errors import UserError
from lorat.shards.pixels import jpeg
from lorat.shards.pixels.jpeg import ImageError, Range16, decode, encode, examine, image_size, range_of, read_image


@pytest.fixture
def picture() -> np.ndarray:
    y, x = np.mgrid[:60, :80]
    return np.stack([x * 3, y * 4, (x + y) * 1.5], axis=-1).astype(np.uint8)


@pytest.fixture(params=["turbojpeg", "opencv"])
def codec(request, monkeypatch):
    """Run a test with each codec; without the library both are OpenCV's."""
    if request.param == "opencv":
        monkeypatch.setattr(jpeg, "_turbo", lambda: None)
    return request.param


def test_colours_survive_encoding_and_the_same_image_gives_the_same_bytes(picture, codec):
    again = decode(encode(picture, 95))
    assert again.shape == picture.shape
    assert np.abs(again.astype(int) - picture).mean() < 2.0
    assert encode(picture) == encode(picture.copy())


def test_grey_images_become_rgb(picture, codec):
    grey = cv2.imencode(".jpg", picture[..., 0])[1].tobytes()
    image = decode(grey)
    assert image.shape == (60, 80, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_size_is_read_from_the_header_of_every_format(tmp_path, picture, suffix):
    path = tmp_path / f"image{suffix}"
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert image_size(path) == (80, 60)
    np.testing.assert_allclose(read_image(path).astype(int), picture, atol=40)


def exif(order: str, orientation: int, before: int = 0) -> bytes:
    """EXIF's directory with that entry, after so many others."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little" if order == "II" else "big")

    def entry(tag: int, value: int) -> bytes:
        return number(tag, 2) + number(3, 2) + number(1, 4) + number(value, 2) + bytes(2)

    entries = [entry(0x100 + n, 7) for n in range(before)] + [entry(0x112, orientation)]
    return order.encode() + number(42, 2) + number(8, 4) + number(len(entries), 2) + b"".join(entries) + bytes(4)


def with_exif(jpeg: bytes, data: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + (len(data) + 8).to_bytes(2, "big") + b"Exif\0\0" + data + jpeg[2:]


@pytest.mark.parametrize(("order", "orientation", "before"), [("II", 6, 0), ("MM", 8, 5), ("II", 1, 2)])
def test_exif_orientation_is_ignored_and_told(tmp_path, picture, codec, order, orientation, before):
    plain, path = encode(picture), tmp_path / "a.jpg"
    path.write_bytes(with_exif(plain, exif(order, orientation, before)))
    assert cv2.imread(str(path)).shape[:2] == ((80, 60) if orientation > 1 else (60, 80))
    image, odd = examine(path)
    np.testing.assert_array_equal(image, decode(plain))
    asks = f"asks to be turned (EXIF {orientation}); images are used as stored"
    assert odd == ({"orientation": asks} if orientation > 1 else {})


def thermal(picture: np.ndarray, path, factor: int = 4):
    cv2.imwrite(str(path), (7000 + factor * picture[..., 0].astype(np.uint16)))
    return path


def test_16_bits_a_pixel_are_cut_to_8_and_told_unless_a_range_stretches_them(tmp_path, picture):
    path = thermal(picture, tmp_path / "a.png")
    image, odd = examine(path)
    assert (image.min(), image.max()) == (27, 31)
    assert "16 bits a pixel; only the upper 8 are read (27 … 31 of 255); --range16" in odd["16 bits"]
    stretched, odd = examine(path, Range16.parse("7000,8020"))
    np.testing.assert_array_equal(stretched, picture[..., :1].repeat(3, axis=2))
    assert odd == {}
    assert (read_image(path, Range16(7400, 7404)) == np.where(picture[..., :1] > 100, 255, 0)).mean() > 0.9


def test_auto_is_the_range_of_the_first_frame_for_all(tmp_path, picture):
    first, other = thermal(picture, tmp_path / "1.png"), thermal(picture, tmp_path / "2.png", 8)
    found = range_of(first, Range16.parse("auto"))
    assert found == (7000, 7000 + 4 * 237)
    assert read_image(other, found).max() == 255 and range_of(other, found) == found
    first.write_bytes(first.read_bytes()[:100])
    range_of.cache_clear()
    with pytest.raises(ImageError, match=r"1\.png: does not decode, but --range16 auto goes by it"):
        range_of(first, Range16())


def test_8_bits_stay_what_they_are_under_a_range_and_that_is_told(tmp_path, picture):
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), picture)
        image, odd = examine(tmp_path / name, Range16(0, 100))
        np.testing.assert_array_equal(image, read_image(tmp_path / name))
        assert odd == {"8 bits": "8 bits a pixel, which --range16 leaves as they are"}


@pytest.mark.parametrize("text", ["7000", "8000,7000", "7,7", "-1,5", "a,b", "automatic", "1,2,3", ""])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(UserError, match="two counts, the lower first"):
        Range16.parse(text)


def test_an_image_of_one_colour_is_told(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30, 3), (3, 2, 1), np.uint8))
    assert examine(tmp_path / "a.png")[1] == {"one colour": "one colour (1, 2, 3) all over"}
    (tmp_path / "b.jpg").write_bytes(encode(picture))
    assert examine(tmp_path / "b.jpg")[1] == {}


def test_truncated_images_are_errors_that_name_the_file(tmp_path, picture, codec):
    data = encode(picture)
    path = tmp_path / "broken.jpg"
    for length in (0, 1, 100, len(data) // 2, len(data) - 30, len(data) - 2):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"broken\.jpg"):
            read_image(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"gone\.jpg"):
            read(tmp_path / "gone.jpg")


def test_stray_bytes_between_segments_do_no_harm(picture):
    data = encode(picture)
    at = data.index(b"\xff\xc4")
    stray = data[:at] + bytes(7) + data[at:]
    np.testing.assert_array_equal(decode(stray), decode(data))


def test_the_codec_is_named_by_the_version_of_its_library(tmp_path):
    assert re.fullmatch(r"libjpeg-turbo-\d+\.[\d.]+", jpeg.codec_name())
    library = tmp_path / "libturbojpeg.so"
    library.write_bytes(b"\0libjpeg-turbo version 3.1.2 (build 20250101)\0")
    assert jpeg._library_name(library) == "libjpeg-turbo-3.1.2"
    other = tmp_path / "libother.so"
    other.write_bytes(b"another TurboJPEG")
    assert re.fullmatch(r"libjpeg-turbo-[0-9a-f]{12}", jpeg._library_name(other))


def test_without_the_library_opencv_does_the_work_after_one_warning(monkeypatch, caplog, picture):
    def missing(*_):
        raise RuntimeError("unable to locate the turbojpeg library")

    monkeypatch.setattr(jpeg, "_StrictTurboJPEG", missing)
    jpeg._turbo.cache_clear()
    try:
        assert jpeg.codec_name().startswith("opencv")
        assert decode(encode(picture)).shape == picture.shape
        assert [r.getMessage()[:30] for r in caplog.records] == ["turbojpeg is not usable (unabl"]
        assert "libturbojpeg" in caplog.text
    finally:
        jpeg._turbo.cache_clear()
