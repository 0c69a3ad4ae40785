import errno
import io
import os
import struct
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.pictures import picture
from tf_finetune.data.pictures.decode import (
    KINDS,
    Unusable,
    decode,
    is_animated,
    of_python,
    open_picture,
    opened,
    refuse_one,
    resize,
)
from tf_finetune.errors import UserError

RGB = np.asarray(picture(0, 0))


def decoded(path, least=None):
    return np.asarray(decode(open_picture(str(path)), least))


def saved(path, image, **options):
    image.save(path, **options)
    return decoded(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_lossless_formats_are_read_as_they_are(tmp_path, suffix):
    assert np.array_equal(saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB)), RGB)


@pytest.mark.parametrize(("suffix", "most"), [("jpg", 8), ("webp", 10), ("gif", 25)])
def test_lossy_formats_are_read_nearly(tmp_path, suffix, most):
    found = saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB))
    assert np.abs(found.astype(int) - RGB).mean() < most


def test_the_content_tells_the_format_not_the_name(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a", format="png")
    os.rename(tmp_path / "a", tmp_path / "a.jpg")
    assert np.array_equal(decoded(tmp_path / "a.jpg"), RGB)


def test_grey_becomes_three_equal_colours(tmp_path):
    grey = RGB[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    assert np.array_equal(saved(tmp_path / "a.png", Image.fromarray(grey)), expected)
    wide = grey.astype(np.uint16) * 257
    assert np.array_equal(saved(tmp_path / "b.png", Image.fromarray(wide)), expected)
    assert np.array_equal(saved(tmp_path / "b.tiff", Image.fromarray(wide)), expected)
    bits = Image.fromarray(grey > 128)
    assert np.unique(saved(tmp_path / "c.png", bits)).tolist() == [0, 255]


def test_alpha_lies_over_white(tmp_path):
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    rgba = np.dstack([RGB, alpha])
    for suffix in ("png", "webp"):
        found = saved(tmp_path / f"a.{suffix}", Image.fromarray(rgba), lossless=True)
        assert (found[:10] == 255).all()
        assert np.array_equal(found[10:], RGB[10:])
    grey = saved(tmp_path / "b.png", Image.fromarray(np.dstack([RGB[:, :, 0], alpha])))
    assert (grey[:10] == 255).all()
    assert np.array_equal(grey[10:, :, 1], RGB[10:, :, 0])
    palette = Image.fromarray(np.arange(2000, dtype=np.uint8).reshape(40, 50) % 4, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    found = saved(tmp_path / "c.png", palette, transparency=0)
    assert found[0, :4].tolist() == [[255] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_cmyk_is_converted(tmp_path):
    found = saved(tmp_path / "a.jpg", Image.fromarray(RGB).convert("CMYK"), quality=95)
    assert np.abs(found.astype(int) - RGB).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(RGB)
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "tiff"):
        found = saved(tmp_path / f"a.{suffix}", stored, exif=exif)
        assert np.array_equal(found, RGB), suffix
    assert saved(tmp_path / "a.jpg", stored, exif=exif).shape == RGB.shape
    large = stored.resize((stored.width * 20, stored.height * 20))
    large.save(tmp_path / "b.jpg", exif=exif)
    small = resize(decode(open_picture(str(tmp_path / "b.jpg")), RGB.shape[:2]), RGB.shape[:2])
    assert np.abs(small.astype(int) - RGB).mean() < 8


def test_broken_exif_data_hurt_no_pixel(tmp_path):
    found = saved(tmp_path / "a.png", Image.fromarray(RGB), exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert np.array_equal(found, RGB)


def test_the_first_frame_counts(tmp_path):
    frames = [picture(0, seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    animated, still = (open_picture(str(tmp_path / name)) for name in ("a.gif", "still.gif"))
    assert is_animated(animated)
    assert not is_animated(still)
    first, alone = np.asarray(decode(animated)), np.asarray(decode(still))
    assert np.abs(first.astype(int) - alone).mean() < 12
    webp = tmp_path / "a.webp"
    frames[0].save(webp, save_all=True, append_images=frames[1:], lossless=True)
    assert is_animated(open_picture(str(webp)))
    assert np.array_equal(decoded(webp), RGB)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tiff", "ppm"])
def test_a_truncated_file_is_found(tmp_path, suffix):
    whole = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(whole)
    content = whole.read_bytes()
    for share in (0.5, 0.9):
        whole.write_bytes(content[: int(share * len(content))])
        with pytest.raises(Unusable, match="truncated picture"):
            decoded(whole)


def test_files_without_a_picture(tmp_path):
    def kind(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(Unusable) as found:
            decoded(tmp_path / name)
        return str(found.value)

    assert kind("empty.png", b"") == "empty file"
    assert kind("notes.jpg", b"Dear diary, this is no picture.") == "not a picture"
    assert kind("none.png") == "missing picture"
    assert kind("x" * 5000) == "missing picture"
    assert kind("a\0b") == "missing picture"
    (tmp_path / "folder.png").mkdir()
    assert kind("folder.png") == "unreadable file"
    Image.new("RGB", (7, 100)).save(tmp_path / "tiny.png")
    assert kind("tiny.png") == "tiny picture"
    floats = Image.fromarray(np.linspace(-5, 5, 400, dtype=np.float32).reshape(20, 20))
    floats.save(tmp_path / "float.tiff")
    assert kind("float.tiff") == "unknown range of values"
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    content = bytearray((tmp_path / "whole.png").read_bytes())
    content[200:240] = b"\x55" * 40
    assert kind("damaged.png", bytes(content)) == "corrupt picture"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "bmp", "webp", "tiff", "ppm"])
def test_whatever_the_bytes_are_there_is_a_picture_or_a_reason(tmp_path, form):
    file = io.BytesIO()
    frames = [picture(0, seed) for seed in range(2)]
    several = {"save_all": True, "append_images": frames[1:]} if form in ("gif", "webp") else {}
    frames[0].save(file, form, **several)
    generator, reasons = np.random.default_rng(0), set()
    for _ in range(150):
        content = bytearray(file.getvalue())
        most = len(content) if generator.random() < 0.5 else 120
        for place in generator.integers(0, most, generator.integers(1, 10)).tolist():
            content[place] = generator.integers(256)
        (tmp_path / "a").write_bytes(content)
        try:
            opened = open_picture(str(tmp_path / "a"))
            is_animated(opened)
            decode(opened)
        except Unusable as error:
            reasons.add(str(error))
    assert len(reasons) > 0
    assert reasons <= set(KINDS)


def test_a_file_without_permission(tmp_path, monkeypatch):
    """Root may read everything, so that the system's answer is given here."""
    Image.fromarray(RGB).save(tmp_path / "a.png")

    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(Unusable, match="unreadable file"):
        decoded(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 40_000])
def test_a_header_bomb_is_refused_by_its_header(tmp_path, side):
    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    bomb = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(Unusable, match="too many pixels"):
        open_picture(str(tmp_path / "bomb.png"))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "area"])
@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
def test_resized_as_keras_would(interpolation, how):
    image = picture(0, 0, (90, 61))
    found = resize(image, (32, 48), interpolation, how)
    assert found.shape == (32, 48, 3)
    assert found.dtype == np.uint8
    if interpolation not in ("bilinear", "bicubic"):
        return
    layer = keras.layers.Resizing(
        32,
        48,
        interpolation=interpolation,
        antialias=True,
        crop_to_aspect_ratio=how == "crop",
        pad_to_aspect_ratio=how == "pad",
    )
    expected = np.clip(np.asarray(layer(np.asarray(image, "float32"))), 0, 255)
    # Pillow rounds between its two passes, Keras after both.
    assert np.abs(found - expected).mean() < 0.6
    assert np.abs(found - expected).max() < 8


@pytest.mark.parametrize("size", [(40_000, 16), (16, 40_000)])
def test_a_border_fills_no_memory(size, monkeypatch):
    """A square around it would have 1.6 billion pixels."""
    made, expand = [], ImageOps.expand

    def expanded(image, border):
        made.append((image.width + 2 * border[0]) * (image.height + 2 * border[1]))
        return expand(image, border)

    monkeypatch.setattr(ImageOps, "expand", expanded)
    found = resize(Image.new("RGB", size, (200, 100, 50)), (32, 32), "bilinear", "pad")
    assert made[0] < 2**27
    lines = found.sum(axis=(1, 2) if size[0] > size[1] else (0, 2))
    # A thin line in the middle, as dark as its share.
    assert set(np.flatnonzero(lines)) <= {15, 16}


def test_large_jpegs_come_smaller_but_look_the_same(tmp_path):
    picture(0, 0, (1600, 1200)).save(tmp_path / "a.jpg", quality=95)
    whole = decode(open_picture(str(tmp_path / "a.jpg")))
    small = decode(open_picture(str(tmp_path / "a.jpg")), (64, 64))
    assert whole.size == (1600, 1200)
    assert small.size == (400, 300)
    a, b = (resize(one, (64, 64), "bilinear", "crop").astype(int) for one in (whole, small))
    assert np.abs(a - b).mean() < 1


def test_what_is_no_file_and_what_is_too_long_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.png")  # to read it would wait for ever
    with pytest.raises(Unusable, match="unreadable file"):
        open_picture(str(tmp_path / "a.png"))
    with (tmp_path / "b.tiff").open("wb") as file:
        file.truncate(10**9 + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(Unusable, match="file of more than 1 GB"):
        open_picture(str(tmp_path / "b.tiff"))


def test_a_palette_with_too_much_transparency_is_a_finding(tmp_path):
    image = Image.fromarray(RGB).convert("P")
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    at = content.index(b"IDAT") - 4
    data = b"tRNS" + bytes(300)
    chunk = struct.pack(">I", 300) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "a.png").write_bytes(content[:at] + chunk + content[at:])
    with pytest.raises(Unusable, match="corrupt picture"):
        decoded(tmp_path / "a.png")


def test_formats_of_phones_are_told_from_damage():
    with pytest.raises(Unusable, match="HEIC or AVIF picture"):
        opened(b"\0\0\0\x18ftypheic" + bytes(100))


def test_numbers_between_whole_ones_are_rounded():
    """As `image_dataset_from_directory` gives them."""
    pixels = np.full((9, 9, 3), 127.43, "float32")
    assert np.asarray(of_python(pixels)).max() == 127
    with pytest.raises(ValueError, match="must be uint8"):
        of_python(pixels * 3)


@pytest.mark.parametrize(
    "one", ["a.jpg", b"x", Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), "uint8")]
)
def test_one_picture_is_no_list_of_them(one):
    with pytest.raises(UserError, match=r"write predict\(\[picture\]\)"):
        refuse_one(one)
    refuse_one([one])
    refuse_one(np.zeros((2, 9, 9), "uint8"))
