"""`report.html`: the account of a run as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.report import plots
from tf_finetune.report.markdown import BASELINES
from tf_finetune.report.page_results import closer_parts, result_parts
from tf_finetune.report.page_run import data_parts, run_parts
from tf_finetune.results.wording import NAMES, decisive

if TYPE_CHECKING:
    from tf_finetune.report.page_pictures import PagePictures

_TEMPLATES = Path(__file__).parent / "templates"
# Id and name, and what must be there for it.
_SECTIONS = (
    ("results", "Results", "title"),
    ("calibration", "Calibration", "calibration"),
    ("mistakes", "Mistakes", "title"),
    ("labels", "Labels", "audit"),
    ("data", "Data", "title"),
    ("training", "Training", "title"),
    ("exports", "Exports", "title"),
    ("again", "How it was made", "title"),
)


def render(
    card: Mapping[str, Any],
    config: FineTuneConfig,
    prepared: Any,
    pictures: PagePictures | None = None,
) -> str:
    """The page of a run.

    Whatever stands in texts, labels and names is shown, not obeyed: the template
    escapes all of it.

    Args:
        card: as in `report.render`.
        config: the run's.
        prepared: as in `report.render`.
        pictures: that it shows, of a run on pictures.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    found = {
        **result_parts(card),
        **closer_parts(card),
        **data_parts(card, prepared),
        **run_parts(card, config),
    }
    found["sections"] = [(id, name) for id, name, needs in _SECTIONS if found[needs]]
    found["pictures"] = pictures
    # The only parts that are no text.
    found["plots"] = {name: Markup(svg) for name, svg in _plots(card).items()}
    return environment.get_template("report.html").render(found)


def _plots(card: Mapping[str, Any]) -> dict[str, str]:
    name = decisive(card)
    models = {"this model": card["test"]}
    models |= {BASELINES.get(key, key): scores for key, scores in card["baselines"].items()}
    bars = [
        (label, scores[name], *scores[f"{name}_interval"])
        for label, scores in models.items()
        if None not in scores[f"{name}_interval"]
    ]
    found = {
        "intervals": plots.intervals(bars, NAMES[name]),
        "timeline": plots.timeline([row for p in card["phases"] for row in p["history"]]),
    }
    if card.get("calibration"):
        found["reliability"] = plots.reliability(card["calibration"]["reliability"])
        found["coverage"] = plots.coverage(card["selective"]) if card.get("selective") else ""
    if card.get("drift"):
        found["drift"] = plots.drift(card["drift"])
    return found
