import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.pictures import folder_of_pictures, picture
from tf_finetune.data.pictures.recognise import is_images
from tf_finetune.data.sources import check, read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


@pytest.fixture
def folder(tmp_path):
    return folder_of_pictures(tmp_path, ("cat", "dog"), 3)


def load(path, labelled=True, **settings):
    config = DataConfig(path=str(path), **settings)
    check(config, labelled=labelled)
    return read(config, "classification", Path(path).parent, labelled=labelled)


def refused(path, message, **settings):
    for reader in (load, lambda *given, **more: check(DataConfig(path=str(path), **settings))):
        with pytest.raises(UserError, match=message):
            reader(path, **settings)


def test_the_class_is_the_folders_name(folder):
    table, findings = load(folder)
    assert table.column_names == ["image", "label", "split", "file", "row"]
    assert table["label"].to_pylist() == ["cat"] * 3 + ["dog"] * 3
    expected = [str(folder / kind / f"{i:04d}.png") for kind in ("cat", "dog") for i in range(3)]
    assert table["image"].to_pylist() == expected
    assert findings.kinds() == ()


def test_a_relative_folder_gives_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    table, _ = load("pictures")
    assert table["image"][0].as_py() == str(folder / "cat" / "0000.png")
    assert table["file"][0].as_py() == "pictures/cat/0000.png"


def test_folders_of_splits(folder):
    whole = folder.parent / "whole"
    for split in ("train", "val", "test"):
        shutil.copytree(folder, whole / split)
    table, _ = load(whole, validation="val", test="test")
    assert table["split"].to_pylist() == ["train"] * 6 + ["validation"] * 6 + ["test"] * 6


def test_a_split_from_a_folder_of_its_own(folder):
    other = folder_of_pictures(folder.parent / "other", ("cat", "dog"), 2, seed=1)
    table, _ = load(folder, test=str(other))
    assert table["split"].to_pylist() == [""] * 6 + ["test"] * 4


def test_folders_in_class_folders_and_a_class_called_train(folder):
    (folder / "cat" / "black").mkdir()
    picture(0, 9).save(folder / "cat" / "black" / "a.JPG", format="jpeg")
    (folder / "dog").rename(folder / "train")
    assert load(folder)[0]["label"].to_pylist() == ["cat"] * 4 + ["train"] * 3


def test_splits_without_class_folders(folder):
    """As Kaggle has them: train/cat.0.jpg and test/1.jpg."""
    (folder / "cat").rename(folder / "train")
    (folder / "dog").rename(folder / "test")
    refused(folder, r"files right in test and train, which would be splits, not classes")
    assert load(folder, classes=("train", "test"))[0].num_rows == 6
    shutil.rmtree(folder / "test")
    refused(folder, r"files right in train, which would be splits")


def test_files_that_are_no_pictures_are_passed_over_but_foreign_ones_are_not(folder):
    for name in ("notes.txt", ".hidden.png", "Thumbs.db", "._0000.png"):
        (folder / "cat" / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    shutil.copy(folder / "cat" / "0000.png", folder / ".git" / "a.png")
    assert load(folder)[0].num_rows == 6
    (folder / "cat" / "phone.heic").write_bytes(b"x")
    assert load(folder)[0].num_rows == 7


def test_pictures_beside_the_class_folders_have_no_label(folder):
    picture(0, 9).save(folder / "stray.png")
    table, findings = load(folder)
    assert table.num_rows == 6
    assert findings["missing label"].examples == [(f"{folder}/stray.png:1", f"{folder}/stray.png")]


def test_prediction_takes_all_pictures(folder):
    picture(0, 9).save(folder / "stray.png")
    table, _ = load(folder, labelled=False)
    assert table.num_rows == 7
    assert "label" not in table.column_names
    assert load(folder / "cat", labelled=False)[0].num_rows == 3


def test_no_class_folders(folder):
    refused(folder / "cat", r"no pictures in class folders.* 3 pictures stand in the folder itself")
    (folder / "cat" / "a.csv").write_text("image,label\n")
    refused(folder / "cat", r"It holds a.csv; for a table of paths write")


def test_an_empty_folder(tmp_path):
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", r'"[^"]*none" has no text files .*, nor pictures')
    refused(tmp_path / "none", r'"[^"]*none" has no pictures in class folders', image="image")


def test_names_that_differ_in_case_only(folder):
    (folder / "Cat").mkdir()
    picture(0, 9).save(folder / "Cat" / "a.png")
    refused(folder, r'folders "Cat", "cat" in .* differ in case only')
    table, _ = load(folder, classes=("Cat", "cat", "dog"))
    assert set(table["label"].to_pylist()) == {"Cat", "cat", "dog"}


def test_links(folder):
    elsewhere = folder.parent / "elsewhere"
    (folder / "dog").rename(elsewhere)
    (folder / "dog").symlink_to(elsewhere)
    assert load(folder)[0].num_rows == 6
    (folder / "cat" / "round").symlink_to(folder)
    refused(folder, r'/cat/round" is a link to a folder that it stands in')


def test_a_link_to_itself_is_no_folder(folder):
    (folder / "cat" / "self").symlink_to("self")
    (folder / "cat" / "gone.png").symlink_to("nowhere.png")
    assert load(folder)[0].num_rows == 7


def test_a_folder_without_permission(folder, monkeypatch):
    """Root may read everything, so that the system's answer is given here."""
    scan = os.scandir

    def denied(path):
        if os.fspath(path).endswith("/cat"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    refused(folder, r'/cat" cannot be read: Permission denied')


def test_columns_that_a_folder_has_not(folder):
    refused(folder, r'of pictures has no column "who" \(config.data.group\)', group="who")


def test_more_texts_than_pictures_are_texts(folder):
    assert is_images(DataConfig(path=str(folder)))
    for i in range(4):
        (folder / "cat" / f"{i}.txt").write_text("a cat")
        (folder / "dog" / f"{i}.txt").write_text("a dog")
    assert not is_images(DataConfig(path=str(folder)))
    assert load(folder)[0].column_names[0] == "text"
    assert load(folder, image="image")[0].num_rows == 6


def test_a_picture_beside_class_folders_of_a_split(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "birds").mkdir(exist_ok=True)
        made = folder_of_pictures(tmp_path / "birds", ("crow", "robin"), 2, seed=len(split))
        made.rename(tmp_path / "birds" / split)
    picture(3, 3).save(tmp_path / "birds" / "train" / "overview.png")
    refused(tmp_path / "birds", "overview.png.*is it a split or a class")
    classes = ("train", "test")
    table, _ = load(tmp_path / "birds", classes=classes)
    assert set(table["label"].to_pylist()) == {"train", "test"}


def test_a_folder_that_may_be_listed_but_not_entered(folder, monkeypatch):
    is_dir = Path.is_dir

    def refuses(self, **options):
        if self.parent.name == "cat":
            raise PermissionError(13, "Permission denied")
        return is_dir(self, **options)

    monkeypatch.setattr(Path, "is_dir", refuses)
    refused(folder, r'The folder ".*cat" cannot be read: Permission denied')


def test_other_names_of_the_same_formats_count(folder):
    picture(0, 9).save(folder / "cat" / "a.jfif", format="jpeg")
    assert load(folder)[0].num_rows == 7
