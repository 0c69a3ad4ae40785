import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.fit.optimizers import LayerwiseAdamW, WarmupLinear

RATE, DECAY, EPSILON = 0.01, 0.1, 1e-7


def by_hand(weight, gradients, ages=0, decay=DECAY):
    """AdamW in float64 (Loshchilov & Hutter 2019, algorithm 2)."""
    w, m, v = weight.astype("float64"), 0.0, 0.0
    for step, g in enumerate(gradients, 1 + ages):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        w = w - RATE * decay * w
        rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        w = w - rate * m / (np.sqrt(v) + EPSILON)
    return w


def variable(name, shape, seed=0):
    value = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return keras.Variable(value, name=name), value


def test_equals_float64_by_hand_with_decay_on_kernels_only():
    kernel, k0 = variable("kernel", (4, 3))
    bias, b0 = variable("bias", (2, 3), seed=1)
    gradients = np.random.default_rng(2).normal(size=(6, 4, 3)).astype("float32")
    optimizer = LayerwiseAdamW(RATE, weight_decay=DECAY)
    for g in gradients:
        optimizer.apply([tf.constant(g), tf.constant(g[:2])], [kernel, bias])
    np.testing.assert_allclose(kernel.numpy(), by_hand(k0, gradients), atol=1e-6)
    np.testing.assert_allclose(bias.numpy(), by_hand(b0, gradients[:, :2], decay=0), atol=1e-6)


def test_first_step_of_a_variable_opened_late_is_one_rate():
    old, _ = variable("old", (3,))
    optimizer = LayerwiseAdamW(RATE)
    for _ in range(50):
        optimizer.apply([tf.ones(3)], [old])
    new, before = variable("new", (3,), seed=1)
    later = LayerwiseAdamW(RATE)
    later.build([old, new])
    later.load_state(optimizer.state())
    later.apply([tf.ones(3), tf.ones(3)], [old, new])
    np.testing.assert_allclose(before - new.numpy(), RATE, rtol=1e-4)


def test_sparse_gradients_are_those_of_their_dense_form():
    table, t0 = variable("embeddings", (5, 2))
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [0.5, 0.5]], "float32")
    optimizer = LayerwiseAdamW(RATE, weight_decay=DECAY)
    optimizer.apply([tf.IndexedSlices(rows, [1, 3, 1], [5, 2])], [table])
    dense = np.zeros((5, 2))
    dense[1], dense[3] = rows[0] + rows[2], rows[1]
    np.testing.assert_allclose(table.numpy(), by_hand(t0, [dense]), atol=1e-6)


def test_survives_a_keras_file(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(LayerwiseAdamW(WarmupLinear(0.1, 2, 9), weight_decay=0.1), "mse")
    x, y = np.ones((4, 3)), np.ones((4, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for m in (model, again):
        m.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])


def test_schedule_rises_peaks_and_ends_at_zero():
    schedule = WarmupLinear(1.0, 3, 10)
    rates = [float(schedule(step)) for step in range(11)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[10] == 0.0


def test_schedule_without_warmup_begins_at_the_peak():
    assert float(WarmupLinear(0.5, 0, 4)(0)) == 0.5


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad"):
        LayerwiseAdamW(0.1, amsgrad=True)
