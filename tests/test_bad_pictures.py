"""Mistakes with pictures, as they are made: a real command on real files, one message, status 2."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.mistakes import refusal
from tests.pictures import folder_of_pictures, picture
from tests.tiny_pictures import save_image_preset
from tf_finetune.errors import UserError
from tf_finetune.model.image_backbones import application, check_name, check_size


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_preset(tmp_path_factory.mktemp("preset") / "tiny.keras")


@pytest.fixture
def here(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pictures and a model that could be trained on."""
    folder_of_pictures(tmp_path, ("cat", "dog"), 20)
    (tmp_path / "tiny.keras").hardlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _bomb() -> bytes:
    """A PNG whose header alone says that it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"0"))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def _empty(here: Path) -> None:
    shutil.rmtree("pictures")
    Path("pictures").mkdir()


def _one_class(here: Path) -> None:
    shutil.rmtree("pictures/dog")


def _at_the_top(here: Path) -> None:
    for i, file in enumerate(sorted(here.rglob("pictures/*/*.png"))):
        file.rename(f"pictures/{i}.png")


def _case(here: Path) -> None:
    Path("pictures/Cat").mkdir()
    Path("pictures/cat/0000.png").rename("pictures/Cat/a.png")


def _loop(here: Path) -> None:
    Path("pictures/cat/again").symlink_to(here / "pictures")


def _one_picture(here: Path) -> None:
    Path("pictures/owl").mkdir()
    picture(7, 1).save("pictures/owl/a.png")


def _twice(here: Path) -> None:
    shutil.copy("pictures/cat/0003.png", "pictures/dog/copy.png")


def _file(content: bytes, name: str) -> Callable[[Path], None]:
    def write(here: Path) -> None:
        Path("pictures/cat", name).write_bytes(content)

    return write


def _cut(here: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save("pictures/cat/cut.jpg")
    content = Path("pictures/cat/cut.jpg").read_bytes()
    Path("pictures/cat/cut.jpg").write_bytes(content[: len(content) // 2])


def _table(here: Path) -> None:
    rows = "".join(f"pictures/{k}/{i:04d}.png,{k}\n" for i in range(20) for k in ("cat", "dog"))
    Path("table.csv").write_text(f"image,label\n{rows}pictures/gone.png,cat\n")


def _broken_model(here: Path) -> None:
    content = Path("tiny.keras").read_bytes()
    Path("cut.keras").write_bytes(content[: len(content) // 2])


CASES: dict[str, tuple[Callable[[Path], None] | None, tuple[str, ...], list[str]]] = {
    "empty folder": (_empty, ("image=image",), ['"pictures" has no pictures in class folders']),
    "one class": (_one_class, (), ["all", "the same label", '"cat"']),
    "pictures at the top": (_at_the_top, (), ["40 pictures stand in the folder itself"]),
    "names differ in case": (_case, (), ['"Cat"', '"cat"', "differ in case only"]),
    "a loop of links": (_loop, (), ["is a link to a folder that it stands in", "remove the link"]),
    "one picture of a class": (_one_picture, (), ["owl", "1"]),
    "one picture in two classes": (_twice, ("conflicts=error",), ["0003.png", "copy.png"]),
    "a text": (_file(b"dear diary", "a.jpg"), (), ["not a picture", "a.jpg", "bad_rows=drop"]),
    "no bytes": (_file(b"", "a.png"), (), ["empty file", "a.png", "bad_rows=drop"]),
    "a bomb": (_file(_bomb(), "a.png"), (), ["too many pixels", "a.png"]),
    "cut off": (_cut, (), ["truncated picture", "cut.jpg", "bad_rows=drop"]),
    "a path to nothing": (
        _table,
        ("path=table.csv", "image=image"),
        ["missing picture", "table.csv:42"],
    ),
    "a damaged model": (_broken_model, ("preset=cut.keras",), ['"cut.keras" is no .keras file']),
    "no model": (None, ("preset=gone.keras",), ['there is no file "gone.keras"']),
    "a model of texts": (None, ("preset=minilm",), ["is no model of pictures, as the data are"]),
    "no such model": (None, ("preset=resnet_50_imagenett",), ["resnet_50_imagenet"]),
}


@pytest.mark.parametrize(("make", "settings", "words"), CASES.values(), ids=CASES)
def test_one_message_and_an_unchanged_disk(here, capfd, make, settings, words) -> None:
    if make:
        make(here)
    given = ["--workdir=run", "--config.data.path=pictures", "--config.model.preset=tiny.keras"]
    for setting in settings:
        section = "model" if setting.startswith("preset") else "data"
        given.append(f"--config.{section}.{setting}")
    message = refusal(given, here, capfd)
    missing = [word for word in words if word not in message]
    assert not missing, message
    assert message.count("\n") <= 6, message


def test_a_mistyped_preset_is_told_one_of_pictures() -> None:
    with pytest.raises(UserError, match=r'no model of pictures "resnet_50_imagenett"') as error:
        check_name("resnet_50_imagenett")
    assert '"resnet_50_imagenet"' in str(error.value)
    assert "bert" not in str(error.value)
    for right in ("resnet_50_imagenet", "efficientnet_lite0", "minilm", "hf://timm/x", "./a"):
        check_name(right)


def test_pictures_that_are_too_small_for_a_backbone() -> None:
    loaded = application("VGG16", None)
    assert check_size(loaded, 64, "VGG16") == (64, 64)
    with pytest.raises(UserError, match=r"image_size is 16, which VGG16 does not take"):
        check_size(loaded, 16, "VGG16")
