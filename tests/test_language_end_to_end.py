"""The recipe of continuations on real sentences, from the command line, as its docstring has it."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tf_finetune import main

ROOT = Path(__file__).parent.parent


@pytest.mark.real
def test_the_recipe_learns_to_go_on_and_answers(tmp_path, monkeypatch, capsys):
    script, folder = ROOT / "examples" / "write_continuations.py", tmp_path / "rows"
    monkeypatch.setattr(sys, "argv", [str(script), str(folder), "--rows=800"])
    runpy.run_path(str(script), run_name="__main__")
    given = [
        f"--config={ROOT / 'configs' / 'continuations.py'}",
        f"--config.data.path={folder / 'rows.jsonl'}",
        f"--config.model.preset={folder / 'tiny_gpt2'}",
        "--config.phases=full",
        "--config.fit.learning_rate=3e-3",
        "--config.results.formats=saved_model,keras_hub",
    ]
    run = tmp_path / "run"
    assert main.run(["tf-finetune", f"--workdir={run}", *given]) == 0
    card = json.loads((run / "metrics.json").read_text())
    assert card["test"]["perplexity"] < 30 < 200 < card["baselines"]["untuned"]["perplexity"]
    assert card["exports"].keys() == {"saved_model", "keras_hub"}
    assert card["export"]["texts"] == 14  # 8 real ones and 6 hard ones
    capsys.readouterr()
    asked = ["tf-finetune", "--mode=predict", f"--workdir={run}", "the film begins as"]
    assert main.run(asked) == 0
    assert capsys.readouterr().out.strip().endswith("the film begins as")
