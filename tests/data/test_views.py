"""Changed versions of rows, numbered behind the rows themselves."""

import numpy as np
import pytest

from tf_finetune.data.augment import TokenNoise
from tf_finetune.data.pictures.augment import STRENGTHS, PictureNoise
from tf_finetune.data.pipeline import training_dataset
from tf_finetune.data.views import ViewStore

N = 7


class Texts:
    lengths = np.arange(4, 4 + N)

    def batch(self, rows):
        padded = self.lengths[rows].max()
        mask = np.arange(padded) < self.lengths[rows][:, None]
        ids = (rows[:, None] * 100 + np.arange(padded) + 10) * mask
        return {"token_ids": ids.astype("int32"), "padding_mask": mask.astype("int32")}


class Pictures:
    lengths = np.ones(N, "int64")
    ahead = 2

    def batch(self, rows):
        return np.random.default_rng(0).integers(0, 256, (N, 12, 12, 3), np.uint8)[rows]


STORES = {
    "texts": (Texts(), TokenNoise(deletion=0.3, swap=0.3, special=(), padding=0)),
    "pictures": (Pictures(), PictureNoise(STRENGTHS["strong"], flip=True)),
}


def row_of(batch, i):
    """A row's real tokens, or its pixels."""
    if isinstance(batch, dict):
        return batch["token_ids"][i][batch["padding_mask"][i] == 1].tolist()
    return batch[i].tolist()


@pytest.mark.parametrize(("store", "noise"), STORES.values(), ids=STORES)
def test_a_version_is_the_same_in_every_batch(store, noise):
    views = ViewStore(store, noise, 2, seed=5)
    rows = np.arange(N)
    whole = views.batch(np.concatenate([rows, views.changed(rows)]))
    plain = store.batch(rows)
    for i in range(N):
        versions = [row_of(whole, i + v * N) for v in range(3)]
        assert versions[0] == row_of(plain, i)
        assert versions[1] != versions[2]
        for v in (1, 2):
            alone = views.batch(np.array([i + v * N, 3]))
            assert row_of(alone, 0) == versions[v]
            assert row_of(alone, 1) == row_of(plain, 3)
    other = ViewStore(store, noise, 2, seed=6).batch(views.changed(rows))
    assert row_of(other, 6) != row_of(whole, N + 6)
    assert views.lengths.tolist() == [*store.lengths] * 3


def test_epochs_take_turns():
    store, noise = STORES["texts"]
    views, rows = ViewStore(store, noise, 2, seed=0), np.arange(N)
    labels = np.arange(N)
    dataset = training_dataset(views, labels, rows, batch_size=N, seed=0, version=views.of_epoch)
    seen = []
    for x, y in dataset.take(4):
        batch = {key: value.numpy() for key, value in x.items()}
        seen.append({int(label): row_of(batch, i) for i, label in enumerate(y.numpy())})
    assert seen[0] == seen[2] != seen[1] == seen[3]
    expected = views.batch(rows + N)
    assert seen[0] == {i: row_of(expected, i) for i in range(N)}
