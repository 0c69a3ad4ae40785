"""What a run's tags are worth: the card of a token classification, and its worst rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.checks import place
from tf_finetune.data.pieces import PieceStore
from tf_finetune.data.rows_file import taken
from tf_finetune.data.spans import entities, in_iob2
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.results import evaluate, tag_scores
from tf_finetune.results.mistakes import MOST_MISTAKES, MOST_TEXT, largest
from tf_finetune.results.wording import shortened


def judge_tags(setup: Setup, config: FineTuneConfig, probe: Scores) -> tuple[dict, Scores]:
    """The card of a run, as `judgement.judge` makes it, and what its model gave by split.

    The model is held against the head alone, and against each word's most frequent tag.
    """
    task, prepared = setup.task, setup.prepared
    logits = held_out(task.network, setup.store, prepared.splits, config.fit.eval_batch)
    outputs = activated(task.kind, logits)
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    truth, chosen = (_true(setup, "test"), _chosen(setup, "test", outputs["test"]))
    facts: dict[str, Any] = {
        "validation": tag_scores.score_tags(
            _true(setup, "validation"),
            _chosen(setup, "validation", outputs["validation"]),
            **how,
        )
    }
    known = tag_scores.WordTags(_words(setup, "train"), _true(setup, "train"))
    guess = [in_iob2(known.of(words)) for words in _words(setup, "test")]
    baselines = {"word_tags": tag_scores.score_tags(truth, guess, **how)}
    if probe:
        alone = _chosen(setup, "test", probe["test"])
        baselines["probe"] = tag_scores.score_tags(truth, alone, **how)
        facts["gain_over_probe"] = tag_scores.gain_of_tags(truth, chosen, alone, **how)
    test = tag_scores.score_tags(truth, chosen, **how)
    rows = prepared.splits["test"]
    assert prepared.tags
    test["unseen_words"] = sum(
        len(prepared.tags.of(row)) - len(_store(setup).seen(row)) for row in rows
    )
    return evaluate.card(task.kind, task.class_names, test, baselines, **facts), outputs


def look_at_tags(
    setup: Setup,
    config: FineTuneConfig,
    outputs: Scores,
    slices: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], np.ndarray]:
    """Parts of the test rows and those with most wrong entities, for the card; `row_counts`."""
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    truth, chosen = _true(setup, "test"), _chosen(setup, "test", outputs["test"])
    counts = tag_scores.row_counts(truth, chosen)
    wrong = counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]
    rows, table = setup.prepared.splits["test"], setup.prepared.table
    words, mistakes = _words(setup, "test"), []
    for i in largest(wrong, MOST_MISTAKES):
        row = int(rows[i])
        mistakes.append(
            {
                "place": place(table, row),
                "texts": [shortened(table["text"][row].as_py(), MOST_TEXT)],
                "label": _in_words(words[i], truth[i]),
                "chosen": _in_words(words[i], chosen[i]),
                "badness": int(wrong[i]),
                "neighbours": [],
            }
        )
    parts = tag_scores.slices_of_tags(truth, chosen, slices, **how)
    return {"slices": parts, "mistakes": mistakes}, counts


def _store(setup: Setup) -> PieceStore:
    assert isinstance(setup.store, PieceStore)
    return setup.store


def _words(setup: Setup, split: str) -> list[list[str]]:
    prepared = setup.prepared
    return taken(prepared.table.select(["words"]), prepared.splits[split])["words"].to_pylist()


def _true(setup: Setup, split: str) -> list[list[str]]:
    tags = setup.prepared.tags
    assert tags
    return [[tags.names[code] for code in tags.of(row)] for row in setup.prepared.splits[split]]


def _chosen(setup: Setup, split: str, outputs: np.ndarray) -> list[list[str]]:
    """Of all words: those that the model does not see are O."""
    tags, found, start = setup.prepared.tags, [], 0
    assert tags
    for row in setup.prepared.splits[split]:
        seen = _store(setup).seen(row)
        codes = np.zeros(len(tags.of(row)), "int64")
        codes[seen] = outputs[start : start + len(seen)].argmax(axis=1)
        start += len(seen)
        found.append(in_iob2([tags.names[code] for code in codes]))
    return found


def _in_words(words: Sequence[str], tags: Sequence[str]) -> str:
    """`Ann Lee (PER), Rome (LOC)`."""
    named = [f"{' '.join(words[a:b])} ({kind})" for kind, a, b in entities(tags)]
    return ", ".join(named) or "(none)"
