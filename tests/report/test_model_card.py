import pytest
import yaml

from tests.report.test_markdown import make
from tf_finetune.report import markdown
from tf_finetune.report.model_card import render


def parts(text):
    start, front, body = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front), body


def test_what_the_hub_reads():
    card, config, prepared = make()
    config.model.preset = "hf://owner/bert: tiny"
    config.data.path, config.data.where = "/home/me/secret/reviews.csv", "source=web"
    front, body = parts(render(card, config, prepared))
    assert front["library_name"] == "keras"
    assert front["pipeline_tag"] == "text-classification"
    assert front["base_model"] == "owner/bert: tiny"
    assert front["metrics"] == ["accuracy", "f1"]
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "reviews.csv (source=web)"
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == pytest.approx(card["test"]["accuracy"], abs=1e-6)
    assert values["macro_f1"] == pytest.approx(card["test"]["macro_f1"], abs=1e-6)
    assert "secret" not in body
    assert body.startswith("\n# bert: tiny-classification\n")


def test_what_people_read():
    card, config, prepared = make()
    _, body = parts(render(card, config, prepared))
    low, high = card["test"]["accuracy_interval"]
    for expected in (
        f"**{card['test']['accuracy']:.1%}** (95% interval {low:.1%} to {high:.1%})",
        "expect less",
        "100 train, 100 test rows",
        "Labels: bad, good\\|fine.",
        "tune: 250 of 1,000 parameters, 3 epochs, 12 s",
        "In this folder, predict a file",
        "--mode=predict --workdir=. --input=FILE",
        'tf_finetune.load_model(".")',
    ):
        assert expected in body


def test_hostile_names_stay_text():
    evil = "a\n```\n<script>alert(1)</script>![x](http://example.org/x.png)"
    card, config, prepared = make("classification", (evil, "good"))
    config.data.path, config.data.where = "<b>.csv", "source=[x](http://example.org)"
    plain = make("classification", ("bad", "good"))
    for make_text in (lambda *given: parts(render(*given))[1], markdown.render):
        text = make_text(card, config, prepared)
        # In a block of code nothing is HTML; such a block ends by itself alone.
        outside = "".join(text.split("```")[::2])
        assert text.count("```") == make_text(*plain).count("```")
        assert "<script>" not in outside
        assert "![x](" not in outside
        assert "<b>" not in outside
        assert "](http" not in outside.replace("\\[x](http", "")


def test_regression_has_errors_and_no_base_model_that_the_hub_does_not_know():
    front, body = parts(render(*make("regression", ("value",))))
    assert "base_model" not in front
    assert front["metrics"] == ["mae", "r2"]
    assert "The target is a number." in body
