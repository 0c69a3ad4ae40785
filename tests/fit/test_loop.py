import dataclasses
import json

import keras
import numpy as np
import pyarrow as pa
import pytest

from tests.tiny import tiny_task, tiny_texts
from tf_finetune.config import Phase
from tf_finetune.data.text import tokenize
from tf_finetune.fit.audit import AuditError, Snapshot
from tf_finetune.fit.examples import examples_of_rows
from tf_finetune.fit.feature_cache import FeatureStore, at_rows, outputs_of
from tf_finetune.fit.loop import adamw_of, fit_phase
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable

ROWS = np.arange(64)


@dataclasses.dataclass
class Data:
    store: object
    labels: np.ndarray
    train = ROWS[:48]
    validation = ROWS[48:]


@pytest.fixture
def data(tmp_path):
    texts, labels = tiny_texts()
    store = tokenize(tiny_task().preprocessor, pa.table({"text": texts}), ROWS, tmp_path, "d")
    return Data(store, labels)


def run(
    task, data, tmp_path, train="all", *, state=None, network=None, say=lambda _: None, **changes
):
    phase = Phase(name="p", train=train, epochs=2, learning_rate=1e-2)
    fit = FitConfig(global_batch=8, precision="float32")
    for key, value in changes.items():
        target = phase if hasattr(phase, key) else fit
        setattr(target, key, value)
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, train)
    examples = examples_of_rows(data.store, data.labels, data.train, data.validation, fit)
    return fit_phase(
        network or task.network,
        examples,
        phase,
        objective=objective_of(task, fit.label_smoothing),
        optimizer=adamw_of(
            phase, examples.steps, groups, weight_decay=fit.weight_decay, clip=fit.clip
        ),
        workdir=tmp_path,
        number=1,
        state={} if state is None else state,
        full=task.network,
        say=say,
    )


def test_training_learns_and_says_what_it_did(data, tmp_path):
    task = tiny_task()
    result = run(task, data, tmp_path, epochs=12)
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert lines[0]["step"] == 6
    assert result.trainable == result.total


def test_frozen_weights_are_bit_identical_and_the_rest_moved(data, tmp_path):
    task = tiny_task()
    groups = layer_groups(task.network, task.backbone)
    frozen = [v for layers in [groups.stem, *groups.blocks[:2]] for x in layers for v in x.weights]
    before = [v.numpy() for v in frozen]
    last = [v.numpy() for layer in groups.blocks[2] for v in layer.weights]
    result = run(task, data, tmp_path, "last:1")
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, frozen, strict=True))
    after = [v.numpy() for layer in groups.blocks[2] for v in layer.weights]
    assert all(not np.array_equal(a, b) for a, b in zip(last, after, strict=True))
    assert result.audit.frozen_unchanged == len(frozen)
    assert result.audit.trained_moved == len(last) + 2


def test_audit_fails_where_a_frozen_variable_changed():
    task = tiny_task()
    set_trainable(layer_groups(task.network, task.backbone), "head")
    snapshot = Snapshot(task.network)
    for variable in task.network.weights:
        variable.assign_add(variable * 0 + 1)
    with pytest.raises(AuditError, match="frozen variables changed"):
        snapshot.check()


def test_audit_fails_where_a_trained_variable_did_not_move():
    task = tiny_task()
    set_trainable(layer_groups(task.network, task.backbone), "head")
    with pytest.raises(AuditError, match="did not move"):
        Snapshot(task.network).check()


def test_cached_head_phase_equals_the_uncached_one(data, tmp_path):
    cached, uncached = tiny_task(seed=3), tiny_task(seed=3)
    uncached.network.set_weights(cached.network.get_weights())
    found = outputs_of(cached.encoder, data.store, ROWS, batch_size=16)
    features = FeatureStore(at_rows(found, ROWS, len(data.store.lengths)))
    # Same batches for both: a feature has no length to sort by.
    features.lengths = data.store.lengths
    (tmp_path / "a").mkdir()
    featured = dataclasses.replace(data, store=features)
    run(cached, featured, tmp_path / "a", "head", network=cached.head)
    (tmp_path / "b").mkdir()
    run(uncached, data, tmp_path / "b", "head")
    for a, b in zip(cached.network.weights, uncached.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


@pytest.mark.parametrize("train", ["all", "last:1"])
def test_a_step_is_traced_once_whatever_the_lengths_of_batches(data, tmp_path, monkeypatch, train):
    """The last batch of an epoch, which is smaller, and the second epoch included."""
    shapes, traces, step = set(), [], keras.Model.train_step

    def counted(self, batch):
        traces.append(1)
        return step(self, batch)

    class Seen(type(data.store)):
        __slots__ = ()

        def batch(self, rows):
            found = super().batch(rows)
            shapes.add(found["token_ids"].shape)
            return found

    monkeypatch.setattr(keras.Model, "train_step", counted)
    data.store.__class__ = Seen
    task = tiny_task()
    data = dataclasses.replace(data)
    data.train = ROWS[:45]
    run(task, data, tmp_path, train)
    assert len({length for _, length in shapes}) > 1
    assert len({rows for rows, _ in shapes}) > 1
    assert len(traces) == 1


def test_phase_ends_on_its_best_epoch(data, tmp_path):
    task = tiny_task()
    result = run(task, data, tmp_path, epochs=6, learning_rate=5e-2)
    scores = [(row["val_accuracy"], -row["val_loss"]) for row in result.history]
    assert result.best_epoch == 1 + max(range(len(scores)), key=scores.__getitem__)
    logits = outputs_of(task.network, data.store, data.validation, batch_size=16)
    accuracy = np.mean(logits.argmax(1) == data.labels[data.validation])
    assert accuracy == pytest.approx(scores[result.best_epoch - 1][0], abs=1e-6)
    files = {f.name for f in (tmp_path / "checkpoints" / "1-p").iterdir()}
    assert files == {"best.weights.h5"}


def test_a_phase_never_ends_worse_on_validation_than_it_began(data, tmp_path):
    task, said = tiny_task(), []
    run(task, data, tmp_path, epochs=12)
    before = task.network.get_weights()
    # A rate far too high ruins what the first phase learned.
    result = run(task, data, tmp_path, epochs=2, learning_rate=3.0, clip=0.0, say=said.append)
    assert result.history[-1]["val_accuracy"] < result.start["val_accuracy"]
    assert result.best_epoch == 0
    assert "none of 2 epochs was better than the start" in said[-1]
    for a, b in zip(before, task.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_ends_a_phase_that_no_longer_improves(data, tmp_path):
    result = run(tiny_task(), data, tmp_path, epochs=40, learning_rate=3e-2, patience=2)
    assert len(result.history) < 40
    assert len(result.history) - result.best_epoch == 2


def test_optimizer_state_is_carried_to_the_next_phase(data, tmp_path):
    task, state = tiny_task(), {}
    run(task, data, tmp_path, "head", state=state)
    head = {v.path for v in task.head.weights}
    assert set(state) == head
    assert {age for age, _, _ in state.values()} == {12}
    before = {path: momentum.copy() for path, (_, momentum, _) in state.items()}
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, "all")
    optimizer = adamw_of(Phase(), 6, groups, weight_decay=0.0, clip=1.0)
    optimizer.build(task.network.trainable_variables)
    optimizer.load_state(state)
    for path, (age, momentum, _) in optimizer.state().items():
        if path in head:
            assert age == 12
            np.testing.assert_array_equal(momentum, before[path])
        else:
            assert age == 0
            assert not momentum.any()


def test_same_seed_same_weights(data, tmp_path):
    weights = []
    for name in "ab":
        (tmp_path / name).mkdir()
        task = tiny_task(backbone_dropout=0.1, dropout=0.1)
        run(task, data, tmp_path / name)
        weights.append(task.network.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_plain_keras_fit_gives_the_same_weights(data, tmp_path):
    ours, plain = tiny_task(), tiny_task()
    run(ours, data, tmp_path, weight_decay=0.0, epochs=1)
    from tf_finetune.data.pipeline import training_dataset
    from tf_finetune.optim.layerwise import layerwise
    from tf_finetune.optim.schedules import rate_schedule

    # Stock Keras clips by the rows of an embedding's gradient before it adds up repeated ones.
    adam = keras.optimizers.Adam(rate_schedule("linear", 1e-2, 0, 6), global_clipnorm=1.0)
    plain.network.compile(
        layerwise(adam, []),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    dataset = training_dataset(data.store, data.labels, data.train, batch_size=8, seed=0)
    plain.network.fit(dataset, steps_per_epoch=6, epochs=1, verbose=0)
    # The attention's key bias has a gradient of rounding noise, which Adam magnifies.
    for a, b in zip(ours.network.weights, plain.network.weights, strict=True):
        if not a.path.endswith("key/bias"):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-4, err_msg=a.path)
