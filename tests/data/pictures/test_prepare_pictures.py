import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.pictures import arrays_of_pictures, folder_of_pictures, picture
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pictures import scan as scanning
from tf_finetune.data.prepare import prepare
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig, ModelConfig


@pytest.fixture
def folder(tmp_path):
    return folder_of_pictures(tmp_path, ("cat", "dog"), 20)


def ready(folder, source=None, task="classification", **data):
    data = {"path": str(folder)} | data
    cache = folder.parent / "cache"
    cache.mkdir(exist_ok=True)
    config = FineTuneConfig(data=DataConfig(**data), model=ModelConfig(task=task))
    config.validate()
    return prepare(config, cache, source)


def used(prepared):
    return sorted(np.concatenate(list(prepared.splits.values())).tolist())


def bomb(path):
    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))


def test_splits_are_stratified_complete_and_repeatable(folder):
    one = ready(folder)
    assert [len(rows) for rows in one.splits.values()] == [32, 4, 4]
    assert used(one) == list(range(40))
    for rows in one.splits.values():
        assert np.bincount(one.labels[rows]).tolist() == [len(rows) // 2] * 2
    assert one.class_names == ("cat", "dog")
    assert one.findings.kinds() == ()
    assert "## Sizes of the pictures" in one.report
    assert "| train | pixels wide | 48 | 48 | 48 | 48 |" in one.report
    assert "rows of equal or nearly equal picture stay together" in one.report
    again = ready(folder)
    assert (again.digest, again.report) == (one.digest, one.report)
    assert ready(folder, seed=1).digest != one.digest


def test_splits_follow_the_pixels_not_the_files(folder):
    one = ready(folder)
    other = folder.parent / "other" / "pictures"
    for path in sorted(folder.rglob("*.png")):
        target = other / path.parent.name / f"x{100 - int(path.stem)}.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    two = ready(other)

    def contents(prepared, split):
        paths = (prepared.table["image"][int(row)].as_py() for row in prepared.splits[split])
        return {np.asarray(Image.open(path)).tobytes() for path in paths}

    for split in one.splits:
        assert contents(one, split) == contents(two, split)


def test_the_digest_follows_the_pixels(folder):
    before = ready(folder).digest
    picture(0, 99).save(folder / "cat" / "0000.png")
    assert ready(folder).digest != before


def test_pictures_are_looked_at_once_unless_they_change(folder, monkeypatch):
    seen = []
    look = scanning._look
    monkeypatch.setattr(scanning, "_look", lambda path: seen.append(path) or look(path))
    damage(folder)
    one, two = (ready(folder, bad_rows="drop") for _ in range(2))
    assert len(seen) == one.table.num_rows
    assert (one.digest, one.report) == (two.digest, two.report)
    (folder / "cat" / "b_empty.png").unlink()
    picture(0, 99).save(folder / "cat" / "b_empty.png")
    three = ready(folder, bad_rows="drop")
    assert len(seen) == 2 * one.table.num_rows
    assert three.findings.count("empty file") == 0


def test_arrays_are_prepared_as_files_are(tmp_path):
    images, labels = arrays_of_pictures(2, 20)
    found = ready(tmp_path / "x", (images, labels), path="")
    assert [len(rows) for rows in found.splits.values()] == [32, 4, 4]
    assert found.class_names == ("0", "1")


def damage(folder):
    """A file of each kind of damage, and what is said of it."""
    cat = folder / "cat"
    (cat / "a_text.jpg").write_text("Dear diary")
    (cat / "b_empty.png").write_bytes(b"")
    Image.new("RGB", (4000, 4)).save(cat / "c_tiny.png")
    bomb(cat / "d_bomb.png")
    picture(0, 77).save(cat / "e_cut.jpg")
    content = (cat / "e_cut.jpg").read_bytes()
    (cat / "e_cut.jpg").write_bytes(content[: len(content) // 2])
    (cat / "f_folder.png").symlink_to("nowhere")
    (cat / "g_phone.heic").write_bytes(b"\0\0\0 ftypheic")
    return {
        "not a picture": 1,
        "HEIC or AVIF picture": 1,
        "empty file": 1,
        "tiny picture": 1,
        "too many pixels": 1,
        "truncated picture": 1,
        "missing picture": 1,
    }


def test_damaged_files_stop_the_run_or_are_set_aside(folder):
    kinds = damage(folder)
    with pytest.raises(UserError) as error:
        ready(folder)
    for kind, count in kinds.items():
        assert f"{count} x {kind}" in str(error.value)
    assert "--config.data.bad_rows=drop" in str(error.value)
    for policy in ("drop", "warn"):
        found = ready(folder, bad_rows=policy)
        assert {kind: found.findings.count(kind) for kind in found.findings.kinds()} == kinds
        assert len(used(found)) == 40
        for path in (folder / "cat").glob("[a-g]_*"):
            if path.stem[0] in "abcdefg":
                assert str(path) in found.report
        assert all("_" not in found.table["image"][row].as_py()[-12:] for row in used(found))
    assert "Left out (config.data.bad_rows=warn)." in found.report


def test_a_path_in_a_table_that_is_not_there_is_named_by_its_row(folder):
    rows = [f"pictures/{kind}/{i:04d}.png,{kind}" for i in range(20) for kind in ("cat", "dog")]
    rows[6] = "pictures/cat/99.png,cat"
    table = folder.parent / "table.csv"
    table.write_text("\n".join(["image,label", *rows]))
    with pytest.raises(UserError, match=r'1 x missing picture: .*table.csv:8 "/.*/cat/99.png"'):
        ready(folder, path=str(table), image="image")


def test_animated_pictures_are_said_and_kept(folder):
    frames = [picture(0, seed) for seed in (50, 51)]
    frames[0].save(folder / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    found = ready(folder)
    assert found.findings["animated picture"].action == "Kept: the first frame counts."
    assert len(used(found)) == 41


def test_copies_in_another_format_are_copies(folder):
    Image.open(folder / "cat" / "0000.png").save(folder / "cat" / "copy.bmp")
    found = ready(folder)
    assert found.findings.count("exact duplicate") == 1
    assert len(used(found)) == 40
    assert len(used(ready(folder, duplicates="warn"))) == 41
    with pytest.raises(UserError, match=r"1 x exact duplicate.*data.duplicates=drop"):
        ready(folder, duplicates="error")


def test_the_same_picture_in_two_classes_is_a_conflict(folder):
    shutil.copy(folder / "cat" / "0003.png", folder / "dog" / "same.png")
    found = ready(folder)
    assert found.findings.count("label conflict") == 2
    assert "dog/same.png:1 like" in found.report
    with pytest.raises(UserError, match=r"2 x label conflict.*data.conflicts=drop"):
        ready(folder, conflicts="error")


def test_leaks_between_given_splits(folder):
    other = folder_of_pictures(folder.parent / "other", ("cat", "dog"), 5, seed=1)
    shutil.copy(folder / "cat" / "0000.png", other / "cat" / "leak.png")
    near = Image.open(folder / "dog" / "0001.png")
    near.save(other / "dog" / "near.jpg", quality=90)
    found = ready(folder, test=str(other), validation="0.2")
    assert found.findings.count("leak") == 1
    assert found.findings.count("near leak") == 1
    assert len(found.splits["test"]) == 12
    assert len(used(found)) == 40 + 12 - 2
    with pytest.raises(UserError, match=r"1 x leak, 1 x near leak.*data.leaks=drop"):
        ready(folder, test=str(other), leaks="error")


def changed(kind, image):
    if kind == "jpeg":
        return image.convert("RGB"), {"format": "jpeg", "quality": 75}
    if kind == "larger":
        return image.resize((image.width * 2, image.height * 2)), {"format": "png"}
    if kind == "smaller":
        return image.resize((image.width * 3 // 4, image.height * 3 // 4)), {"format": "png"}
    return ImageEnhance.Contrast(image).enhance(0.8), {"format": "png"}


@pytest.mark.parametrize("kind", ["jpeg", "larger", "smaller", "paler"])
def test_near_duplicates_stay_together(folder, kind):
    for i in range(10):
        image, options = changed(kind, Image.open(folder / "cat" / f"{i:04d}.png"))
        image.save(folder / "cat" / f"{i:04d}x.png", **options)
    found = ready(folder, validation="0.3", test="0.3")
    assert found.findings.count("near leak") == 0
    assert found.findings.count("near duplicate") >= 9
    side = {row: split for split, rows in found.splits.items() for row in rows.tolist()}
    names = [path.as_py().rpartition("/cat/")[2][:4] for path in found.table["image"]]
    pairs = [(row, row + 1) for row in range(19) if names[row] == names[row + 1]]
    assert len(pairs) == 10
    assert sum(side[a] == side[b] for a, b in pairs) >= 9
    assert ready(folder, near_duplicates=0.0).findings.kinds() == ()


def test_unlike_pictures_are_no_near_duplicates(tmp_path):
    images, labels = arrays_of_pictures(4, 100, (24, 20))
    found = ready(tmp_path / "x", (images, labels), path="")
    assert found.findings.kinds() == ()


def test_even_pictures_are_copies_only_where_they_are_equal(folder):
    for i in range(6):
        Image.new("L", (30, 30), i * 20).save(folder / "cat" / f"even{i}.png")
    assert ready(folder).findings.kinds() == ()


def test_many_pictures_of_one_look_cost_little(monkeypatch):
    monkeypatch.setattr(scanning, "_MOST_CELLS", 1000)
    generator = np.random.default_rng(0)
    one = generator.integers(0, 255, (16, 16, 3)).astype(np.int16)
    thumbnails = np.stack([one + generator.integers(0, 3, one.shape) for _ in range(300)])
    bits = np.repeat(generator.random((1, 64)) < 0.5, 300, axis=0)
    pairs = scanning._near(
        bits, thumbnails.clip(0, 255).astype(np.uint8), frozenset([7]), np.arange(300), 0.8
    )
    assert len(pairs) <= 300 * scanning._MOST_LIKE
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert set(pairs[:, 1].tolist()) == set(range(1, 300)) - {7}


def test_one_class_and_a_class_with_one_picture(folder):
    shutil.rmtree(folder / "dog")
    with pytest.raises(UserError, match=r'all 16 training rows have the same label, "cat"'):
        ready(folder)
    (folder / "dog").mkdir()
    picture(1, 0).save(folder / "dog" / "only.png")
    with pytest.raises(UserError, match=r'of training rows class "dog" has 1'):
        ready(folder)


def test_labels_with_path_separators_name_no_file(folder):
    rows = [
        f"pictures/{kind}/{i:04d}.png,../{kind}/x" for i in range(20) for kind in ("cat", "dog")
    ]
    table = folder.parent / "table.csv"
    table.write_text("\n".join(["image,label", *rows]))
    before = sorted(folder.parent.iterdir())
    found = ready(folder, path=str(table), image="image")
    assert found.class_names == ("../cat/x", "../dog/x")
    assert sorted(folder.parent.iterdir()) == sorted([*before, folder.parent / "cache"])


def test_regression_and_multi_label(folder):
    names = [f"pictures/{kind}/{i:04d}.png" for i in range(20) for kind in ("cat", "dog")]
    table = folder.parent / "table.csv"
    table.write_text("image,label\n" + "".join(f"{name},{i / 8}\n" for i, name in enumerate(names)))
    found = ready(folder, path=str(table), image="image", task="regression")
    assert found.labels.tolist() == [i / 8 for i in range(40)]
    table.write_text(
        "image,label\n"
        + "".join(f"{name},{'a|b' if i % 3 else 'b'}\n" for i, name in enumerate(names))
    )
    found = ready(folder, path=str(table), image="image", task="multi_label")
    assert found.labels[:2].tolist() == [[0, 1], [1, 1]]
