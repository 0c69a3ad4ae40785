import collections
import csv
import itertools
import shutil

import numpy as np
from PIL import Image

from tests.data.pictures.test_prepare_pictures import damage, ready
from tests.pictures import folder_of_pictures
from tf_finetune.data.pictures import sheets
from tf_finetune.data.pictures.sheets import sheet, write_looks
from tf_finetune.settings import DataConfig

TILE = (sheets._SIDE + 8, sheets._SIDE + 8 + sheets._CAPTION)


def colours(path, column, row):
    """How many colours stand in a tile of a sheet."""
    left, top = column * TILE[0] + 4, row * TILE[1] + 4
    tile = Image.open(path).crop((left, top, left + sheets._SIDE, top + sheets._SIDE))
    return len(tile.getcolors(100_000))


def test_a_sheet_of_each_finding_and_of_augmentation(tmp_path):
    folder = folder_of_pictures(tmp_path, ("cat", "dog"), 20)
    kinds = damage(folder)
    shutil.copy(folder / "cat" / "0003.png", folder / "dog" / "same.png")
    Image.open(folder / "cat" / "0005.png").save(folder / "cat" / "near.jpg", quality=90)
    found = ready(folder, bad_rows="drop", seed=1)
    looks = tmp_path / "run" / "looks"
    written = write_looks(found, DataConfig(augment="medium"), looks)
    expected = {"training pictures", "augmentation", "label conflict", "near duplicate", *kinds}
    assert set(written) == expected
    assert sorted([*written.values(), looks / "findings.csv"]) == sorted(looks.iterdir())
    with (looks / "findings.csv").open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    counts = collections.Counter(row["finding"] for row in listed)
    assert counts == {kind: found.findings.count(kind) for kind in found.findings.kinds()}
    assert {row["image"] for row in listed if row["finding"] in kinds} == {
        str(path) for path in (folder / "cat").glob("[a-g]_*")
    }
    (near,) = (row for row in listed if row["finding"] == "near duplicate")
    assert {near["image"], near["like"]} == {
        str(folder / "cat" / name) for name in ("near.jpg", "0005.png")
    }
    assert written["not a picture"].name == "not-a-picture.png"
    assert Image.open(written["near duplicate"]).size == (2 * TILE[0], TILE[1])
    assert Image.open(written["not a picture"]).size == TILE
    assert colours(written["near duplicate"], 0, 0) > 1000
    assert colours(written["near duplicate"], 1, 0) > 1000
    assert colours(written["truncated picture"], 0, 0) < 300
    assert Image.open(written["augmentation"]).size == (6 * TILE[0], 8 * TILE[1])
    assert Image.open(written["training pictures"]).size == (6 * TILE[0], 4 * TILE[1])


def test_the_augmentation_sheet_changes_by_row_and_column_but_not_by_call(tmp_path):
    found = ready(folder_of_pictures(tmp_path, ("cat", "dog"), 10))
    data = DataConfig(augment="strong", flip=True)
    one, two = (
        np.asarray(Image.open(write_looks(found, data, tmp_path / name)["augmentation"]))
        for name in ("a", "b")
    )
    assert np.array_equal(one, two)
    height, width = sheets._SIDE, TILE[0]
    first = [one[4 : 4 + height, i * width : i * width + width] for i in range(6)]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(first))
    plain = write_looks(found, DataConfig(), tmp_path / "c")
    assert set(plain) == {"training pictures"}


def test_targets_and_several_labels_are_shown_too(tmp_path):
    folder = folder_of_pictures(tmp_path, ("cat", "dog"), 10)
    names = [f"pictures/{kind}/{i:04d}.png" for i in range(10) for kind in ("cat", "dog")]
    for task, labels in (("regression", ["0.5", "1.5"]), ("multi_label", ["a|b", ""])):
        rows = [f"{name},{labels[i % 2]}" for i, name in enumerate(names)]
        (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
        found = ready(folder, path=str(tmp_path / "t.csv"), image="image", task=task)
        written = write_looks(found, DataConfig(), tmp_path / task)
        assert colours(written["training pictures"], 0, 0) > 1000


def test_captions_in_any_script_and_long_ones(tmp_path):
    folder = folder_of_pictures(tmp_path, ("猫" * 60, "ø\nñ"), 1)
    paths = sorted(folder.rglob("*.png"))
    made = sheet([(str(path), f"{path.parent.name}\n{path.name}") for path in paths])
    assert made.size == (2 * TILE[0], TILE[1])


def test_small_pictures_keep_their_pixels_and_large_ones_their_shape(tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "small.png")
    Image.new("RGB", (3000, 1000), "red").save(tmp_path / "wide.png")
    small, wide = (sheets._thumbnail(str(tmp_path / name)) for name in ("small.png", "wide.png"))
    assert small.size == (160, 160)
    assert len(small.getcolors()) == 2
    assert wide.size == (160, 53)
