import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tests.pictures import arrays_of_pictures, folder_of_pictures
from tf_finetune.data.pictures.decode import decode, open_picture
from tf_finetune.data.pictures.recognise import is_images
from tf_finetune.data.sources import check, read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

IMAGES, LABELS = arrays_of_pictures(2, 3, (16, 12))


class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(12, 16, 3)),
            "label": tfds.features.ClassLabel(names=["circle", "square"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            yield i, {"image": image, "label": int(label)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder_of_pictures(tmp_path, ("cat", "dog"), 2)
    (tmp_path / "cache").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def load(here, source=None, task="classification", labelled=True, **settings):
    config = DataConfig(**settings)
    check(config, source, labelled=labelled)
    return read(config, task, here / "cache", source, labelled=labelled)


def pixels(table):
    return [np.asarray(Image.open(path)) for path in table["image"].to_pylist()]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_tables_hold_paths_from_their_own_folder_on(here, form):
    rows = [("pictures/cat/0000.png", "a"), (str(here / "pictures/dog/0001.png"), "b")]
    rows.append(((here / "pictures/cat/0001.png").as_uri(), "a/b"))
    path = here / f"table.{form}"
    if form == "csv":
        path.write_text("picture,kind\n" + "".join(f"{a},{b}\n" for a, b in rows))
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"picture": a, "kind": b}) + "\n" for a, b in rows))
    else:
        columns = dict(zip(("picture", "kind"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)
    table, findings = load(here, path=str(path), image="picture", label="kind")
    assert table["label"].to_pylist() == ["a", "b", "a/b"]
    expected = ["cat/0000.png", "dog/0001.png", "cat/0001.png"]
    assert table["image"].to_pylist() == [str(here / "pictures" / name) for name in expected]
    assert table["row"].to_pylist() == ([2, 3, 4] if form == "csv" else [1, 2, 3])
    assert findings.kinds() == ()


def test_a_row_without_a_path(here):
    (here / "a.csv").write_text("image,label\npictures/cat/0000.png,a\n ,b\n")
    table, findings = load(here, path=str(here / "a.csv"), image="image")
    assert table.num_rows == 1
    assert findings["missing picture"].examples[0][0] == f"{here}/a.csv:3"


def test_addresses_are_refused(here):
    (here / "a.csv").write_text("image,label\nhttps://example.org/a.png,a\n")
    with pytest.raises(UserError, match=r'a.csv:2: "https://[^"]*" is an address; nothing is down'):
        load(here, path=str(here / "a.csv"), image="image")


def test_parquet_with_the_pictures_in_it(here):
    content = (here / "pictures/cat/0000.png").read_bytes()
    jpeg = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(jpeg, "jpeg")
    column = [{"bytes": content, "path": "x.png"}, {"bytes": jpeg.getvalue(), "path": None}]
    pq.write_table(pa.table({"image": column, "label": ["a", "b"]}), here / "a.parquet")
    table, _ = load(here, path=str(here / "a.parquet"), image="image")
    found = [Path(path) for path in table["image"].to_pylist()]
    assert [path.suffix for path in found] == [".png", ".jpg"]
    assert [path.read_bytes() for path in found] == [content, jpeg.getvalue()]


@pytest.mark.parametrize(
    "source",
    [
        (IMAGES, LABELS),
        (list(IMAGES), LABELS.tolist()),
        (tf.constant(IMAGES), tf.constant(LABELS)),
        {"image": IMAGES, "label": LABELS},
        tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)),
        tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4),
        tf.data.Dataset.from_tensor_slices({"image": IMAGES, "label": LABELS}),
    ],
)
def test_arrays_become_files_without_loss(here, source):
    assert is_images(DataConfig(), source)
    table, _ = load(here, source)
    assert table["label"].to_pylist() == LABELS.astype(str).tolist()
    assert np.array_equal(np.stack(pixels(table)), IMAGES)
    assert all(path.startswith(str(here / "cache")) for path in table["image"].to_pylist())
    assert table["row"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_arrays_by_split_and_for_prediction(here):
    source = {"train": (IMAGES, LABELS), "test": (IMAGES[:2], LABELS[:2])}
    assert load(here, source)[0]["split"].to_pylist() == [""] * 6 + ["test"] * 2
    table, _ = load(here, IMAGES, labelled=False)
    assert np.array_equal(np.stack(pixels(table)), IMAGES)


def test_pictures_of_pillow(here):
    grey = Image.fromarray(IMAGES[0]).convert("L")
    source = ([Image.fromarray(IMAGES[0]), grey], ["a", "b"])
    assert is_images(DataConfig(), source)
    found = pixels(load(here, source)[0])
    assert np.array_equal(found[0], IMAGES[0])
    assert np.array_equal(found[1], np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_pair": "x"}, "text_pair is 'x', but the rows are pictures"),
        ({"token_swap": 0.1}, "token_swap is 0.1, but the rows are pictures"),
    ],
)
def test_settings_for_texts_are_refused(here, settings, message):
    with pytest.raises(UserError, match=message):
        load(here, (IMAGES, LABELS), **settings)


def test_settings_for_pictures_are_refused_where_there_are_texts(here):
    for settings in ({"augment": "light"}, {"flip": True}):
        with pytest.raises(UserError, match=r"but the rows are texts.*config.data.image"):
            load(here, (["one", "two"], ["a", "b"]), **settings)


def test_the_same_array_is_written_once(here, monkeypatch):
    first, _ = load(here, (IMAGES, LABELS))
    times = {path: Path(path).stat().st_mtime_ns for path in first["image"].to_pylist()}
    again, _ = load(here, (IMAGES, LABELS))
    assert {path: Path(path).stat().st_mtime_ns for path in again["image"].to_pylist()} == times


def test_grey_and_alpha_arrays(here):
    grey = IMAGES[..., 0]
    assert np.array_equal(np.stack(pixels(load(here, (grey, LABELS))[0])), grey)
    assert np.array_equal(np.stack(pixels(load(here, (grey[..., None], LABELS))[0])), grey)
    rgba = np.concatenate([IMAGES, grey[..., None]], axis=-1)
    assert np.array_equal(np.stack(pixels(load(here, (rgba, LABELS))[0])), rgba)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_whole_numbers_of_other_types(here, dtype):
    """As `keras.utils.image_dataset_from_directory` gives them."""
    table, _ = load(here, (IMAGES.astype(dtype), LABELS))
    assert np.array_equal(np.stack(pixels(table)), IMAGES)


def test_a_black_picture_is_black_whatever_its_type(here):
    images = IMAGES.astype("float32")
    images[2] = 0
    assert np.array_equal(np.stack(pixels(load(here, (images, LABELS))[0])), images)


def test_a_picture_of_pillow_that_is_cut_off_is_named(here):
    content = (here / "pictures" / "cat" / "0000.png").read_bytes()
    (here / "cut.png").write_bytes(content[: len(content) // 2])
    source = ([Image.fromarray(IMAGES[0]), Image.open(here / "cut.png")], ["a", "b"])
    with pytest.raises(UserError, match="data:2: found a picture that cannot be read"):
        load(here, source)


def test_pillow_pictures_are_read_as_their_files_are(here):
    wide = Image.fromarray(IMAGES[0, ..., 0].astype("uint16") * 257)
    turned = Image.fromarray(IMAGES[1])
    turned.getexif()[0x0112] = 6
    for image in (wide, turned):
        image.save(here / "a.png", exif=image.getexif())
        with Image.open(here / "a.png") as opened:
            (found,) = pixels(load(here, ([opened], ["a"]))[0])
        assert np.array_equal(found, np.asarray(decode(open_picture(str(here / "a.png")))))
    assert found.shape[:2] == IMAGES.shape[2:0:-1]


def test_paths_in_memory_and_labels_of_other_tasks(here):
    paths = sorted(map(str, (here / "pictures").rglob("*.png")))
    frame = pd.DataFrame({"path": paths, "score": [0.1, 0.2, 0.3, 0.4]})
    table, _ = load(here, frame, "regression", image="path", label="score")
    assert table["image"].to_pylist() == paths
    assert table["label"].to_pylist() == [0.1, 0.2, 0.3, 0.4]
    several = {"image": paths, "label": ["a|b", "b", "", "a"]}
    table, _ = load(here, several, "multi_label", image="image")
    assert table["label"].to_pylist() == [["a", "b"], ["b"], [], ["a"]]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES / 255, r"data:1: pictures must be uint8, 0 to 255; found float64, 0 to 1"),
        (IMAGES.astype("int64") + 100, r"must be uint8, 0 to 255; found int64"),
        (IMAGES + 0.5, r"found float64, .* Scale them and convert: to 0 to 255, uint8"),
        ([Image.new("F", (9, 9), 0.5)] * 6, r"found a picture of mode F: unknown range of values"),
        (IMAGES[..., :2], r"found a picture of shape \(12, 16, 2\)"),
        ([7] * 6, r"config.data.image must name a column of paths; found 7"),
    ],
)
def test_arrays_that_are_no_pictures(here, images, message):
    with pytest.raises(UserError, match=message):
        load(here, (images, LABELS), image="image")


def test_image_and_label_need_columns_of_their_own(here):
    (here / "a.csv").write_text("image,label\na.png,a\n")
    with pytest.raises(UserError, match=r'has no column "photo" \(config.data.image\)'):
        load(here, path=str(here / "a.csv"), image="photo")
    with pytest.raises(
        UserError, match=r'config.data.image and config.data.label are both "label"'
    ):
        load(here, path=str(here / "a.csv"), image="label")


def test_a_prepared_tensorflow_data_set(here):
    Tiny(data_dir=here / "tfds").download_and_prepare()
    settings = {"tfds": "tiny", "tfds_dir": str(here / "tfds")}
    assert is_images(DataConfig(**settings))
    table, _ = load(here, **settings)
    order = [IMAGES.tolist().index(image.tolist()) for image in pixels(table)]
    assert sorted(order) == list(range(6))
    assert [["circle", "square"][LABELS[i]] for i in order] == table["label"].to_pylist()


def test_paths_that_begin_as_pictures_do_are_paths(tmp_path, monkeypatch):
    folder_of_pictures(tmp_path, ("BMW", "RIFFS"), 2)
    (tmp_path / "cache").mkdir()
    root = tmp_path / "pictures"
    paths = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
    labels = [Path(path).parts[0] for path in paths]
    data = tf.data.Dataset.from_tensor_slices((paths, labels))
    config = DataConfig(image="image")
    monkeypatch.chdir(root)
    table, _ = read(config, "classification", tmp_path / "cache", data)
    assert [Path(path).name for path in table["image"].to_pylist()] == ["0000.png", "0001.png"] * 2
    assert all(Path(path).exists() for path in table["image"].to_pylist())


def test_bytes_in_a_parquet_file_are_pictures_whatever_they_begin_with(tmp_path):
    (tmp_path / "cache").mkdir()
    rows = []
    for i in range(2):
        file = io.BytesIO()
        Image.fromarray(IMAGES[i]).save(file, "PPM")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": "ab"[i]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    config = DataConfig(path=str(tmp_path / "a.parquet"), image="image")
    table, _ = read(config, "classification", tmp_path / "cache")
    for path, pixels in zip(table["image"].to_pylist(), IMAGES[:2], strict=True):
        assert np.array_equal(np.asarray(decode(open_picture(path))), pixels)


@pytest.mark.parametrize("batch", [0, 4])
def test_pictures_in_grey_in_a_dataset(tmp_path, batch):
    grey = np.random.default_rng(0).integers(0, 255, (8, 28, 28), dtype="uint8")
    data = tf.data.Dataset.from_tensor_slices((grey, [0, 1] * 4))
    data = data.batch(batch) if batch else data
    assert is_images(DataConfig(), data)
    table, _ = read(DataConfig(), "classification", tmp_path, data)
    assert len(table) == 8
    ids = tf.data.Dataset.from_tensor_slices((grey[:, 0].astype("int32"), [0, 1] * 4)).batch(4)
    assert not is_images(DataConfig(), ids)


@pytest.mark.parametrize("channels", [0, 3])
def test_pictures_whose_channels_are_not_known_before(tmp_path, channels):
    files = [tf.io.encode_png(one).numpy() for one in IMAGES]
    data = tf.data.Dataset.from_tensor_slices((files, ["a", "b"] * (len(files) // 2)))
    data = data.map(lambda x, y: (tf.io.decode_png(x, channels=channels), y))
    table, _ = read(DataConfig(), "classification", tmp_path, data)
    assert len(table) == len(files)


def test_pictures_of_unknown_rank_are_told(tmp_path):
    data = tf.data.Dataset.from_tensor_slices(([tf.io.encode_png(IMAGES[0]).numpy()], ["a"]))
    data = data.map(lambda x, y: (tf.io.decode_image(x), y))
    with pytest.raises(UserError, match="must be text"):
        read(DataConfig(), "classification", tmp_path, data)
