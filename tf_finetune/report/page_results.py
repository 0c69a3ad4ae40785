"""What `report.html` shows of the test rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.report.cautions import caution_lines
from tf_finetune.report.closer_sections import (
    interval,
    mistakes_title,
    mistakes_words,
    suspected,
    value_name,
)
from tf_finetune.report.markdown import BASELINES
from tf_finetune.results import calibration, retention
from tf_finetune.results.wording import (
    NAMES,
    counted,
    decisive,
    interval_of,
    short,
    value_of,
    with_interval,
)

# Of more classes the page has the largest; all are in metrics.json.
_MOST_CLASSES, _MOST_CONFUSED = 50, 12

# What Grad-CAM is drawn of.
_CHOICES = {
    "classification": "the class that was chosen",
    "multi_label": "the label that is furthest off",
    "regression": "a higher value",
}


def result_parts(card: Mapping[str, Any]) -> dict[str, Any]:
    """Figures beside baselines, by class, the confusion matrix, and what to keep in mind."""
    name, test = decisive(card), card["test"]
    columns = {"this model": test}
    columns |= {BASELINES.get(key, key): scores for key, scores in card["baselines"].items()}
    names = [one for one in NAMES if one in test]
    return {
        "figures": [
            {
                "name": f"{NAMES[name]}, {label}",
                "value": value_of(scores, name),
                "beside": interval_of(scores, name),
            }
            for label, scores in columns.items()
        ],
        "scores": {
            "head": ["figure", *columns],
            "rows": [[NAMES[n], *(with_interval(s, n) for s in columns.values())] for n in names],
        },
        "classes": _classes(card),
        **_confusion(card),
        "retained": retention.sentences(card) if "retained" in card else "",
        "cautions": [line.replace("`", "") for line in caution_lines(card)],
    }


def _classes(card: Mapping[str, Any]) -> dict[str, Any] | None:
    test = card["test"]
    if not test.get("per_class"):
        return None
    largest = sorted(test["per_class"].items(), key=lambda item: -item[1]["support"])
    caption = "Precision, recall and F1."
    if len(largest) > _MOST_CLASSES:
        caption += f" The {_MOST_CLASSES} largest of {len(largest)}; all are in metrics.json."
    return {
        "caption": caption,
        "head": ["class", "precision", "recall", "F1", counted(card)],
        "rows": [
            [name, *(f"{s[key]:.3f}" for key in ("precision", "recall", "f1")), s["support"]]
            for name, s in largest[:_MOST_CLASSES]
        ],
    }


def _confusion(card: Mapping[str, Any]) -> dict[str, Any]:
    none: dict[str, Any] = {"confusion": None, "confused": []}
    if "confusion" not in card["test"]:
        return none
    counts, names = np.array(card["test"]["confusion"]), card["class_names"]
    if len(names) > _MOST_CONFUSED:
        wrong = counts * (1 - np.eye(len(names), dtype=int))
        worst = np.argsort(wrong, axis=None)[::-1][:10]
        pairs = [np.unravel_index(i, wrong.shape) for i in worst if wrong.flat[i]]
        return none | {"confused": [[names[t], names[c], int(wrong[t, c])] for t, c in pairs]}
    # At most so much of the colour that the figures stay readable.
    shares = 45 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        (
            name,
            [
                {"count": int(n), "share": round(float(share)), "right": i == j}
                for j, (n, share) in enumerate(zip(line, part, strict=True))
            ],
        )
        for i, (name, line, part) in enumerate(zip(names, counts, shares, strict=True))
    ]
    return none | {"confusion": {"names": names, "rows": rows}}


def closer_parts(card: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of the rows, calibration, mistakes, suspected labels and drift."""
    name = decisive(card)
    slices = [
        [s["name"], s["by"], s["rows"], value_of({name: s["value"]}, name), interval(s, name)]
        for s in card.get("slices", ())
    ]
    named = {"regression": "off by {:.4g}", TOKENS: "{:.0f} wrong entities"}
    named[LANGUAGE] = "loss of a token {:.3g}"
    how = named.get(card["task"], "sure by {:.1%}")
    audit = card.get("label_audit")
    return {
        "slices": slices
        and {"head": ["part", "by", "test rows", value_name(card), "95% interval"], "rows": slices},
        "calibration": _calibration(card),
        "selective": [
            [
                f"{row['coverage']:.0%}",
                row["rows"],
                f"{row['accuracy']:.1%}",
                interval(row, "accuracy"),
                f"{row['threshold']:.3f}",
            ]
            for row in card.get("selective", ())
        ],
        "mistakes_title": mistakes_title(card),
        "mistakes_words": mistakes_words(card),
        "choice": _CHOICES.get(card["task"], ""),
        "mistakes": [m | {"how": how.format(m["badness"])} for m in card.get("mistakes", ())],
        "audit": audit
        and {
            "text": suspected(audit),
            "first": audit["first"],
        },
        "drift": [
            [r["block"], f"{r['relative_l2']:.2%}", "" if r["cka"] is None else short(r["cka"])]
            for r in card.get("drift", ())
        ],
    }


def _calibration(card: Mapping[str, Any]) -> dict[str, Any] | None:
    found = card.get("calibration")
    if not found:
        return None
    after, before = (found[when]["ece"] for when in ("after", "before"))
    text = f"Expected calibration error on the test rows: {after:.3f}."
    if found["temperature"] != 1:
        text += (
            f" Before it was {before:.3f}: logits are divided by a temperature of "
            f"{found['temperature']:.3f}, fitted on the validation split, in the model that was "
            "saved and exported. No choice changes by it."
        )
    text += f" {calibration.chance(found)}"
    rows = [
        [
            f"{r['low']:.0%} and {r['high']:.0%}",
            r["rows"],
            f"{r['confidence']:.1%}",
            f"{r['accuracy']:.1%}",
        ]
        for r in found["reliability"]
    ]
    return {"text": text, "rows": rows, "method": f"In {found['method']}."}
