"""Images decode to RGB of their own size, and damage is an error that names the file."""

import re

import cv2
import numpy as np
import pytest

from lorat.shards.pixels import jpeg
from lorat.shards.pixels.jpeg import ImageError, decode, encode, image_size, read_image


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


def test_exif_orientation_is_ignored(tmp_path, picture, codec):
    plain = encode(picture)
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    turned = plain[:2] + segment + plain[2:]
    np.testing.assert_array_equal(decode(turned), decode(plain))


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
