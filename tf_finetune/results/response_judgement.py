"""What a language model's responses are worth: its card, and what it writes for test prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.checks import place
from tf_finetune.data.responses import pairs_of
from tf_finetune.fit.held_out import Scores, held_out
from tf_finetune.model.headed import HeadedTask
from tf_finetune.results import evaluate
from tf_finetune.results.mistakes import MOST_TEXT
from tf_finetune.results.response_scores import (
    gain_of_responses,
    score_responses,
    slices_of_responses,
)
from tf_finetune.results.wording import shortened

_SAMPLES = 8


def judge_responses(
    setup: Setup, config: FineTuneConfig, untuned: Scores
) -> tuple[dict[str, Any], Scores]:
    """The card of a run, as `judgement.judge` makes it, and what its model gave by split.

    The model is held against itself before tuning.
    """
    task, splits = setup.task, setup.prepared.splits
    found = held_out(task.network, setup.store, splits, config.fit.eval_batch)
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    before = untuned["test"]
    card = evaluate.card(
        task.kind,
        (),
        score_responses(found["test"], **how),
        {"untuned": score_responses(before, **how)},
        validation=score_responses(found["validation"], **how),
        gain_over_untuned=gain_of_responses(found["test"], before, **how),
    )
    return card, found


def look_at_responses(
    setup: Setup,
    task: HeadedTask,
    config: FineTuneConfig,
    outputs: Scores,
    slices: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Parts of the test rows, and what the model writes for some prompts, for the card."""
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    counts, rows, table = outputs["test"], setup.prepared.splits["test"], setup.prepared.table
    chosen = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype("int64"))
    prompts, responses = pairs_of(table, rows[chosen])
    samples = [
        {
            "place": place(table, int(rows[i])),
            "texts": [shortened(prompt, MOST_TEXT)],
            "label": shortened(response, MOST_TEXT),
            "chosen": shortened(written, MOST_TEXT),
            "badness": float(counts[i, 0] / max(counts[i, 2], 1.0)),
            "neighbours": [],
        }
        for i, prompt, response, written in zip(
            chosen.tolist(), prompts, responses, task.predict(prompts), strict=True
        )
    ]
    return {"slices": slices_of_responses(counts, slices, **how), "mistakes": samples}
