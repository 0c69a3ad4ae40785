import io
import os
import shutil
import tarfile
import zipfile

import pytest

from tests.pictures import folder_of_pictures
from tf_finetune.data.pictures import archive
from tf_finetune.data.sources import check, read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


@pytest.fixture
def here(tmp_path):
    folder_of_pictures(tmp_path, ("cat", "dog"), 3)
    (tmp_path / "cache").mkdir()
    return tmp_path


def load(here, name):
    config = DataConfig(path=str(here / name))
    check(config)
    return read(config, "classification", here / "cache")[0]


def zipped(here, members, name="a.zip"):
    with zipfile.ZipFile(here / name, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members.items():
            file.writestr(member, content)
    return name


def png(here):
    return (here / "pictures" / "cat" / "0000.png").read_bytes()


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "bztar", "xztar"])
@pytest.mark.parametrize("inside", [".", "pictures"])
def test_an_archive_is_as_its_folder(here, form, inside):
    root = here / "pictures" if inside == "." else here
    name = shutil.make_archive(str(here / "a"), form, root, inside)
    table = load(here, name)
    assert table["label"].to_pylist() == ["cat"] * 3 + ["dog"] * 3
    for path, original in zip(
        table["image"].to_pylist(), sorted((here / "pictures").rglob("*.png")), strict=True
    ):
        assert path.startswith(str(here / "cache"))
        with open(path, "rb") as file:
            assert file.read() == original.read_bytes()


def test_splits_in_an_archive(here):
    for split in ("train", "test"):
        shutil.copytree(here / "pictures", here / "whole" / split)
    name = shutil.make_archive(str(here / "a"), "zip", here, "whole")
    config = DataConfig(path=name, test="test")
    check(config)
    table = read(config, "classification", here / "cache")[0]
    assert table["split"].to_pylist() == ["" if i < 6 else "test" for i in range(12)]


def test_unpacked_once_and_anew_when_it_changes(here, monkeypatch):
    name = zipped(here, {"cat/a.png": png(here), "dog/a.png": b"x"})
    first = load(here, name)["image"].to_pylist()
    monkeypatch.setattr(archive, "_unpack", None)
    assert load(here, name)["image"].to_pylist() == first
    monkeypatch.undo()
    os.utime(here / name, ns=(1, 1))
    assert load(here, name)["image"].to_pylist() != first


def test_what_is_no_picture_stays_packed(here):
    members = {"cat/a.png": png(here), "dog/b.png": b"x", "run.sh": b"rm", "cat/.c.png": b"x"}
    load(here, zipped(here, {**members, "__MACOSX/cat/a.png": b"x"}))
    found = sorted(path.name for path in (here / "cache").rglob("*") if path.is_file())
    assert found == ["a.png", "b.png", "rows.arrow"]


@pytest.mark.parametrize(
    "name", ["../evil.png", "cat/../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:/evil.png"]
)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_nothing_leads_out_of_the_folder(here, name, form):
    if form == "zip":
        zipped(here, {"cat/a.png": png(here), name: png(here)}, "a.zip")
    else:
        with tarfile.open(here / "a.tar", "w") as file:
            info = tarfile.TarInfo(name)
            info.size = 4
            file.addfile(info, io.BytesIO(b"evil"))
    before = set(here.rglob("*"))
    with pytest.raises(UserError, match=r"which leads out of its folder"):
        load(here, f"a.{form}")
    assert set(here.rglob("*")) == before
    assert not (here.parent / "evil.png").exists()


def tarred(here, *infos, name="a.tar"):
    with tarfile.open(here / name, "w") as file:
        for info in infos:
            info.size = 4
            file.addfile(info, io.BytesIO(b"evil"))
    return name


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_pictures_in_the_top_folder_alone(here, form):
    if form == "zip":
        name = zipped(here, {"a.png": png(here), ".": b""})
    else:
        name = tarred(here, tarfile.TarInfo("a.png"), tarfile.TarInfo("."))
    with pytest.raises(UserError, match=rf'{name}" has no pictures in class .*1 picture stands'):
        load(here, name)


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_name_that_no_disk_takes(here, form):
    member = f"cat/{'a' * 300}.png"
    if form == "zip":
        name = zipped(here, {member: png(here)})
    else:
        name = tarred(here, tarfile.TarInfo(member))
    with pytest.raises(UserError, match="a name of 308 characters, which is too long to unpack"):
        load(here, name)
    assert not any((here / "cache").iterdir())


def test_a_header_without_end_is_not_read(here, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_NAME", 1000)
    info = tarfile.TarInfo("cat/a.png")
    info.pax_headers = {"comment": "x" * 2000}
    name = tarred(here, info)
    with pytest.raises(UserError, match=r"a name or a header in it takes 2,\d\d\d bytes"):
        check(DataConfig(path=str(here / name)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_no_pictures(here, kind):
    for name in ("notes", "link.png"):
        with tarfile.open(here / f"{name}.tar", "w") as file:
            file.add(here / "pictures", "pictures")
            link = tarfile.TarInfo(f"pictures/cat/{name}")
            link.type, link.linkname = kind, "/etc/passwd"
            file.addfile(link)
    assert load(here, "notes.tar").num_rows == 6
    with pytest.raises(UserError, match=r'"link.png.tar" holds the link "pictures/cat/link.png"'):
        load(here, "link.png.tar")


def test_a_bomb_is_stopped(here, monkeypatch):
    monkeypatch.setattr(archive, "_LEAST_LIMIT", 100_000)
    name = zipped(here, {"cat/a.png": bytes(10_000_000), "dog/a.png": b"x"})
    with pytest.raises(UserError, match=r"unpacks to far more than it holds"):
        load(here, name)
    assert not any((here / "cache").iterdir())


def test_damaged_archives(here):
    (here / "text.zip").write_bytes(b"not a zip")
    (here / "text.tar.gz").write_bytes(b"not a tar")
    for name in ("text.zip", "text.tar.gz"):
        with pytest.raises(UserError, match=rf'{name}" is not a whole archive'):
            check(DataConfig(path=str(here / name)))
    name = shutil.make_archive(str(here / "whole"), "gztar", here / "pictures")
    with open(name, "rb") as file:
        content = file.read()
    (here / "half.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r'half.tar.gz" is not a whole archive'):
        load(here, "half.tar.gz")


def test_an_archive_that_is_damaged_inside(here):
    with zipfile.ZipFile(here / "a.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("cat/a.png", png(here))
    content = bytearray((here / "a.zip").read_bytes())
    content[content.index(b"BZh") + 10] ^= 255  # the checksum of the block
    (here / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=r'a.zip" is not a whole archive'):
        load(here, "a.zip")
    assert not any((here / "cache").iterdir())


def test_a_name_that_stands_twice(here):
    with tarfile.open(here / "a.tar", "w") as file:
        for _ in range(2):
            file.add(here / "pictures" / "cat" / "0000.png", "cat/a.png")
    with pytest.raises(UserError, match=r'holds "cat/a.png" twice'):
        load(here, "a.tar")
    assert [path.name for path in (here / "cache").iterdir()] == []


def test_an_encrypted_archive(here):
    name = zipped(here, {"cat/a.png": png(here)})
    content = bytearray((here / name).read_bytes())
    content[6] |= 1  # the flag of an encrypted member, there and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (here / name).write_bytes(content)
    with pytest.raises(UserError, match=r'a.zip" cannot be unpacked.*password'):
        load(here, name)


def test_what_is_passed_over_is_not_unpacked_without_end(here, monkeypatch):
    monkeypatch.setattr(archive, "_LEAST_LIMIT", 10_000)
    with tarfile.open(here / "a.tar.bz2", "w:bz2") as tar:
        tar.add(here / "pictures" / "cat", "cat")
        info = tarfile.TarInfo("readme.txt")
        info.size = 10_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
        tar.add(here / "pictures" / "dog", "dog")
    with pytest.raises(UserError, match="unpacks to more than 20 times what it holds"):
        load(here, "a.tar.bz2")
