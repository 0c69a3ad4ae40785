"""Pictures inside of the page of a run."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.pictures import arrays_of_pictures
from tests.report.pages import check_accessible, check_closed, elements, parsed, text_of
from tests.report.test_markdown import CLOSER, MISTAKE, make
from tests.tiny_pictures import tiny_image_task
from tf_finetune.report import page_pictures
from tf_finetune.report.page import render
from tf_finetune.results.grad_cam import NotDrawn

PIXELS, LABELS = arrays_of_pictures(2, 20, (32, 32))
NEAR = MISTAKE["neighbours"][0]
MISTAKES = [
    MISTAKE | {"table_row": row, "neighbours": [NEAR | {"table_row": row + 20}]}
    for row in range(15)
]
SUSPECTS = [MISTAKE | {"likely": "b", "table_row": row} for row in range(20, 35)]


def card_of(kind="classification", **given):
    audit = CLOSER["label_audit"] | {"first": SUSPECTS}
    given = {"mistakes": MISTAKES, "label_audit": audit, "image_size": 32} | given
    return make(kind, **given)


def setup_of(labels=LABELS):
    return SimpleNamespace(
        examples=lambda rows: PIXELS[rows], prepared=SimpleNamespace(labels=labels)
    )


def opened(address):
    kind, _, content = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def test_a_page_shows_mistakes_their_heat_and_neighbours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1584, 1008, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "augmentation.png")
    card, config, prepared = card_of()
    pictures = page_pictures.page_pictures(setup_of(), tiny_image_task(), card, tmp_path)
    assert sorted(pictures.seen) == [*range(15), *range(20, 35)]
    assert sorted(pictures.heat) == list(range(15))
    page = render(card, config, prepared, pictures)
    assert render(card, config, prepared, pictures) == page
    tree = parsed(page)
    check_accessible(tree)
    check_closed(page, tree)
    # Of each mistake itself, its heat and a neighbour; suspects; and the sheet.
    assert len(elements(tree, "img")) == 3 * 15 + 15 + 1
    assert len(page) < 2_000_000  # with a sheet of noise, which compresses worst
    text = text_of(elements(tree, "body")[0])
    assert "orange covers what spoke for the class that was chosen" in text
    assert "the backbone's last maps, of 8 x 8 places" in text
    assert "a.csv:9, like it: bad, cosine 0.500" in text
    assert "What augmentation makes of the training pictures" in text
    found = opened(pictures.seen[3]).astype(int)
    assert found.shape == (112, 112, 3)
    whole = np.asarray(Image.fromarray(PIXELS[3]).resize((112, 112), Image.Resampling.NEAREST))
    assert np.abs(found - whole).mean() < 8


def test_without_maps_the_page_says_why(tmp_path, monkeypatch):
    def refuse(*_):
        raise NotDrawn("ViT gives tokens")

    monkeypatch.setattr(page_pictures, "grad_cam", refuse)
    card, config, prepared = card_of()
    pictures = page_pictures.page_pictures(setup_of(), tiny_image_task(), card, tmp_path)
    assert pictures.heat == {}
    page = render(card, config, prepared, pictures)
    assert "is not drawn, because ViT gives tokens." in page
    assert "orange covers" not in page
    assert "What augmentation makes" not in page
    assert page.count("<img") == 2 * 15 + 15


@pytest.mark.parametrize(
    ("kind", "names", "choice"),
    [
        ("multi_label", ("a", "b"), "the label that is furthest off"),
        ("regression", ("stars",), "a higher value"),
    ],
)
def test_other_tasks(kind, names, choice, tmp_path, monkeypatch):
    task, asked = tiny_image_task(kind, names), []
    true = page_pictures.grad_cam
    monkeypatch.setattr(
        page_pictures, "grad_cam", lambda *given: asked.append(given[2]) or true(*given)
    )
    labels = LABELS.astype(float) if kind == "regression" else np.eye(2)[1 - LABELS]
    # The first label is always right, so that the other one is off.
    if kind == "multi_label":
        labels[:, 0] = task.predict(PIXELS)[:, 0]
    card, config, prepared = card_of(kind, names=names, label_audit=None)
    pictures = page_pictures.page_pictures(setup_of(labels), task, card, tmp_path)
    assert asked[0].tolist() == [int(kind == "multi_label")] * 15
    page = render(card, config, prepared, pictures)
    assert f"what spoke for {choice}" in page
    check_accessible(parsed(page))


def test_texts_and_a_run_without_mistakes_have_none(tmp_path):
    card, config, prepared = card_of(mistakes=[], label_audit=None)
    assert page_pictures.page_pictures(setup_of(), object(), card, tmp_path) is None
    pictures = page_pictures.page_pictures(setup_of(), tiny_image_task(), card, tmp_path)
    assert "<img" not in render(card, config, prepared, pictures)


def test_orange_covers_where_heat_is():
    pixels = np.full((40, 60, 3), (0, 0, 200), np.uint8)
    heat = np.zeros((4, 6), "float32")
    heat[0, 5] = 1
    found = page_pictures.covered(pixels, heat).astype(int)
    assert found.shape == pixels.shape
    assert len(set(found[-1, 0])) == 1  # grey
    red, green, blue = found[0, -1]
    assert red > green > blue
    assert max(opened(page_pictures.uri(pixels)).shape) == page_pictures.SIDE
