import keras
import numpy as np
import pytest

from tf_finetune.fit.checkpoints import KeepBest

BEST = "best.weights.h5"


class Training:
    """A model of one number, which tells after which epoch it was written."""

    def __init__(self, folder, *, mode="max", patience=0, start=None):
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        metric, loss = start or (0.0 if mode == "max" else 9.0, 9.0)
        self.keep = KeepBest("val_it", mode, patience, {"val_it": metric, "val_loss": loss}, folder)
        self.keep.set_model(self.model)
        self.set(0)
        self.keep.on_train_begin()
        self.model.stop_training = False

    def run(self, *epochs):
        """Gives pairs of metric and loss until the callback stops; returns how many."""
        for epoch, (metric, loss) in enumerate(epochs):
            self.set(epoch + 1)
            self.keep.on_epoch_end(epoch, {"val_it": metric, "val_loss": loss})
            if self.model.stop_training:
                return epoch + 1
        return len(epochs)

    def set(self, value):
        self.model.set_weights([np.full((1, 1), value, "float32")])

    def read(self, file):
        self.model.load_weights(file)
        return float(self.model.get_weights()[0][0, 0])


@pytest.mark.parametrize(
    ("mode", "epochs", "best"),
    [
        ("max", [(0.1, 1.0), (0.3, 2.0), (0.2, 0.5)], 2),
        ("min", [(0.3, 1.0), (0.1, 2.0), (0.2, 0.5)], 2),
        ("max", [(0.5, 1.0), (0.5, 0.8), (0.5, 0.9)], 2),
        ("max", [(0.5, 0.8), (0.5, 0.8)], 1),
    ],
    ids=["most", "least", "loss between equals", "first of equals"],
)
def test_the_best_epoch_is_kept_and_restored(tmp_path, mode, epochs, best):
    training = Training(tmp_path / "new", mode=mode)
    training.run(*epochs)
    assert training.keep.best_epoch == best
    assert [path.name for path in (tmp_path / "new").iterdir()] == [BEST]
    assert training.read(tmp_path / "new" / BEST) == best
    training.set(99)
    training.keep.restore()
    assert training.model.get_weights()[0][0, 0] == best


def test_what_is_written_later_leaves_the_best_alone(tmp_path):
    training = Training(tmp_path)
    training.run((0.9, 1.0), (0.1, 1.0), (0.2, 1.0))
    assert training.read(tmp_path / BEST) == 1


@pytest.mark.parametrize(
    ("mode", "start", "epoch"),
    [
        ("max", (0.6, 1.0), (0.5, 0.9)),
        ("min", (0.5, 1.0), (0.6, 0.9)),
        ("max", (0.5, 1.0), (0.5, 1.0)),
    ],
    ids=["most", "least", "equal"],
)
def test_the_start_is_kept_where_no_epoch_is_better(tmp_path, mode, start, epoch):
    training = Training(tmp_path, mode=mode, start=start)
    training.run(epoch, epoch)
    assert training.keep.best_epoch == 0
    assert training.read(tmp_path / BEST) == 0
    training.keep.restore()
    assert training.model.get_weights()[0][0, 0] == 0


def test_patience_is_not_spent_on_the_start(tmp_path):
    worse = [(0.1, 1.0)] * 5
    assert Training(tmp_path, patience=2, start=(0.9, 1.0)).run(*worse) == 3


def test_a_start_without_finite_numbers_is_no_candidate(tmp_path):
    training = Training(tmp_path, start=(0.9, float("nan")))
    training.run((0.1, 1.0))
    assert training.keep.best_epoch == 1


@pytest.mark.parametrize(("patience", "ran"), [(0, 6), (1, 3), (2, 4), (4, 6)])
def test_patience_counts_from_the_best_epoch(tmp_path, patience, ran):
    epochs = [(0.1, 1.0), (0.9, 1.0), (0.2, 1.0), (0.3, 1.0), (0.4, 1.0), (0.5, 1.0)]
    assert Training(tmp_path, patience=patience).run(*epochs) == ran


@pytest.mark.parametrize("wrong", [(0.9, float("nan")), (float("nan"), 0.1), (0.9, float("inf"))])
def test_an_epoch_without_finite_numbers_ends_the_phase_and_is_not_the_best(tmp_path, wrong):
    training = Training(tmp_path)
    assert training.run((0.5, 1.0), wrong, (0.9, 0.1)) == 2
    assert training.keep.best_epoch == training.keep.finite_epochs == 1
    assert training.read(tmp_path / BEST) == 1
    first = Training(tmp_path / "first")
    assert first.run(wrong) == 1
    assert first.keep.finite_epochs == 0
