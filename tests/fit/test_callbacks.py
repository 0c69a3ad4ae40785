import io
import json
import sys

import keras
import numpy as np
import pytest

from tf_finetune.fit.callbacks import MetricsLog, Progress
from tf_finetune.optim.optimizers import LayerwiseAdamW
from tf_finetune.optim.schedules import rate_schedule

X, Y = np.ones((12, 1), "float32"), np.zeros((12, 1), "float32")


def fit(callback, optimizer=None, epochs=2):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(optimizer or LayerwiseAdamW(rate_schedule("linear", 0.1, 0, 6)), "mse")
    model.fit(
        X, Y, 4, epochs, verbose=0, callbacks=[callback], validation_data=(X, Y), shuffle=False
    )
    return model


def test_a_line_an_epoch(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"phase": "before"}\n')
    log = MetricsLog("p", 12, file)
    fit(log)
    before, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert before == {"phase": "before"}
    assert lines == log.rows
    assert [(row["phase"], row["epoch"], row["step"]) for row in lines] == [
        ("p", 1, 3),
        ("p", 2, 6),
    ]
    assert [row["learning_rate"] for row in lines] == pytest.approx([0.05, 0.0])
    assert set(lines[0]) == {
        *("phase", "epoch", "step", "loss", "val_loss", "learning_rate"),
        *("seconds", "examples_per_second"),
    }
    assert log.first_step_seconds > 0


def test_a_step_that_overflows_in_float16_is_no_update(tmp_path):
    inner = LayerwiseAdamW(rate_schedule("linear", 0.1, 0, 6))
    # The first gradient is 2, which overflows at this scale and not at half of it.
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**127)
    log = MetricsLog("p", 12, tmp_path / "metrics.jsonl")
    fit(log, scaled)
    assert [row["step"] for row in log.rows] == [2, 5]
    assert log.rows[-1]["learning_rate"] == pytest.approx(0.1 / 6)
    assert {age for age, _, _ in inner.state().values()} == {5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_an_epoch_on_a_terminal(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    fit(Progress("tune", 12, 3))
    assert "tune 1/2" in shown.getvalue()
    assert "tune 2/2" in shown.getvalue()
    assert "loss=" in shown.getvalue()
    assert "13/12" not in shown.getvalue()


def test_nothing_is_shown_elsewhere(capfd):
    fit(Progress("tune", 12, 3))
    assert capfd.readouterr() == ("", "")
