import json
import re
import shutil
import subprocess

import html5lib
import pytest

from tests.report.pages import (
    check_accessible,
    check_closed,
    contrast,
    elements,
    parsed,
    text_of,
    themes,
)
from tests.report.test_markdown import CLOSER, MISTAKE, make, phase
from tf_finetune.report.page import render
from tf_finetune.results import calibration

EVIL = "<script>alert(1)</script>"
EPOCHS = [
    {
        "phase": name,
        "epoch": i + 1,
        "step": i,
        "loss": 1 / (i + 1),
        "val_loss": 0.5,
        "learning_rate": 1e-3,
        "examples_per_second": 123.4,
    }
    for name in ("probe", "tune")
    for i in range(2)
]
PHASES = [
    phase(name="probe", train="head", history=EPOCHS[:2]),
    phase(name="tune", history=EPOCHS[2:]),
]
CALIBRATION = {
    "temperature": 1.7,
    "method": calibration.METHOD,
    "before": {"ece": 0.091, "log_loss": 0.5},
    "after": {"ece": 0.017, "log_loss": 0.4},
    "by_chance": {"mean": 0.021, "most": 0.034},
    "reliability": [
        {"low": 0.6, "high": 0.667, "rows": 80, "confidence": 0.63, "accuracy": 0.61},
        {"low": 0.933, "high": 1.0, "rows": 120, "confidence": 0.97, "accuracy": 0.96},
    ],
}


EXPORTS = {
    name: {
        "path": f"runs/x/export/{name}/1",
        "bytes": 94_000_000,
        "texts": 74,
        "max_difference": 3e-8,
        "milliseconds": milliseconds,
        "facts": {},
    }
    for name, milliseconds in (("saved_model", 4.25), ("hugging_face", None))
}


def whole(kind="classification", **given):
    given |= {"phases": PHASES, "calibration": CALIBRATION, "exports": EXPORTS, **CLOSER}
    card, config, prepared = make(kind, **given)
    card["gain_over_probe"]["mcnemar"] = {"only_first": 31, "only_second": 12, "p": 0.0053}
    return card, config, prepared


@pytest.fixture(scope="module")
def page():
    return render(*whole())


def test_a_page_is_valid_closed_and_accessible(page):
    tree = parsed(page)
    check_accessible(tree)
    check_closed(page, tree)
    assert len(re.findall("<svg", page)) == 5


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_pages_of_other_tasks(kind):
    names = ("value",) if kind == "regression" else ("bad", "good|fine")
    page = render(*make(kind, names, export=None))
    tree = parsed(page)
    check_accessible(tree)
    check_closed(page, tree)
    assert "None was written." in page
    assert "Confusion" not in page


def test_colours_can_be_told_from_the_page_in_light_and_dark(page):
    light, dark = themes(page)
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for ground in ("page", "card"):
            for ink in ("ink", "soft", "first", "second", "good", "bad"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_it_tells_all_that_it_should(page):
    text = text_of(elements(parsed(page), "body")[0])
    for expected in (
        "Before it was 0.091: logits are divided by a temperature of 1.700",
        "show 0.021 by chance alone, and in 95 of 100 cases no more than 0.034.",
        "93% and 100% 120 97.0% 96.0%",
        "true bad, chosen good|fine (sure by 98.7%): a | text a.csv:7",
        "a.csv:9: bad, cosine 0.500 like it",
        "56 of 1,234 training rows are suspected",
        "leak: 1",
        "a.csv:3: a text",
        "probe head 250 of 1,000 25.0% 2 of 2 12.3 5 7",
        "block_1 2.13% 0.9877",
        "examples a second, phase tune 123",
        "most memory, GB 2.50",
        "saved_model TensorFlow 94.0 3.0e-08 74 4.2 runs/x/export/saved_model/1",
        "hugging_face NumPy, as transformers 94.0 3.0e-08 74 runs/x/export/hugging_face/1",
        "tf-finetune --config=configs/reviews.py --workdir=runs/x",
        "fit.epochs: 0 -> 3",
        "here from 9 50.0% 25.0% to 75.0%",
        "McNemar's exact p = 0.0053",
    ):
        assert expected in text, expected


def test_what_stands_in_the_data_is_shown_and_not_obeyed():
    evil = f'{EVIL}" onload="x" & $\\frac{{'
    card, config, prepared = make(
        names=(evil, "good"),
        phases=[phase(name=evil, history=[epoch | {"phase": evil} for epoch in EPOCHS[:2]])],
        calibration=CALIBRATION,
        **CLOSER | {"drift": [{"block": evil, "relative_l2": 0.1, "cka": 1.0}]},
        command=evil,
    )
    card["mistakes"] = [MISTAKE | {"texts": [evil], "place": evil, "label": evil, "chosen": evil}]
    prepared.findings.add(evil, evil, evil)
    config.model.preset = evil
    page = render(card, config, prepared)
    tree = parsed(page)
    check_closed(page, tree)
    check_accessible(tree)
    assert len(elements(tree, "script")) == 1  # ours
    assert EVIL not in page
    assert EVIL in text_of(elements(tree, "title")[0])
    assert text_of(elements(tree, "summary")[0]).count(EVIL) == 3  # true, chosen and the text


def test_the_same_card_gives_the_same_page(page):
    assert render(*whole()) == page


def test_many_classes_are_cut():
    names = tuple(f"class {i}" for i in range(60))
    card, config, prepared = make(names=names, n=3000)
    card["test"]["confusion"][3][5] = 999
    page = render(card, config, prepared)
    text = text_of(elements(parsed(page), "body")[0])
    assert "The 50 largest of 60" in text
    assert "class 3 class 5 999" in text


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Clicks on a head twice, and says what came of it.
PROBE = """
<script>
const result = {wide: document.documentElement.scrollWidth <= innerWidth};
const table = document.querySelector("#slices-caption").closest("table");
const heads = table.tHead.rows[0].cells;
const column = () => [...table.tBodies[0].rows].map(row => row.cells[2].textContent);
heads[2].querySelector("button").click();
result.up = [heads[2].getAttribute("aria-sort"), ...column()];
heads[2].querySelector("button").click();
result.down = [heads[2].getAttribute("aria-sort"), ...column()];
document.body.setAttribute("data-result", JSON.stringify(result));
</script></body>
"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_it_and_sorts_its_tables(tmp_path, width):
    card, config, prepared = whole()
    card["slices"] = [
        {"by": "x", "name": f"part {n}", "rows": n, "value": 0.5, "interval": [0.2, 0.8]}
        for n in (1000, 20, 3)
    ]
    card["mistakes"] = [MISTAKE | {"texts": ["w" * 400]}]
    file = tmp_path / "report.html"
    file.write_text(render(card, config, prepared).replace("</body>", PROBE), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += [f"--window-size={width},800", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *flags, file.as_uri()], capture_output=True, text=True, check=True, timeout=300
    )
    (body,) = elements(html5lib.parse(done.stdout), "body")
    result = json.loads(body.get("data-result"))
    assert result["wide"], "the page scrolls sideways"
    assert result["up"] == ["ascending", "3", "20", "1000"]
    assert result["down"] == ["descending", "1000", "20", "3"]
    assert "CONSOLE" not in done.stderr, done.stderr
