import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from tf_finetune.errors import UserError
from tf_finetune.optim.layerwise import layerwise
from tf_finetune.optim.optimizers import LayerwiseAdamW
from tf_finetune.optim.schedules import rate_schedule

KINDS = {
    "SGD": lambda rate: optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda rate: optimizers.Adam(rate, amsgrad=True, clipnorm=0.5),
    "AdamW": lambda rate: optimizers.AdamW(rate, weight_decay=0.1, global_clipnorm=0.5),
    "RMSprop": lambda rate: optimizers.RMSprop(rate, momentum=0.5, centered=True),
    "Lion": lambda rate: optimizers.Lion(rate, weight_decay=0.1, gradient_accumulation_steps=2),
    "Adafactor": lambda rate: optimizers.Adafactor(rate, clipvalue=0.5),
    "Adagrad": lambda rate: optimizers.Adagrad(rate, use_ema=True, ema_overwrite_frequency=2),
    "Nadam": lambda rate: optimizers.Nadam(rate, loss_scale_factor=4.0),
    "Ftrl": lambda rate: optimizers.Ftrl(rate),
    "Adamax": lambda rate: optimizers.Adamax(rate, weight_decay=0.1),
    "Lamb": lambda rate: optimizers.Lamb(rate, use_ema=True),
    "Adadelta": lambda rate: optimizers.Adadelta(rate),
}
if hasattr(optimizers, "ScheduleFreeAdamW"):  # newer than the oldest Keras that will do
    KINDS["ScheduleFreeAdamW"] = lambda rate: optimizers.ScheduleFreeAdamW(rate, warmup_steps=3)


def variables(*shapes):
    generator = np.random.default_rng(0)
    return [
        keras.Variable(generator.normal(size=shape).astype("float32"), name=f"v{i}")
        for i, shape in enumerate(shapes)
    ]


def trained(optimizer, steps=6):
    made = variables((4, 3), (3,))
    generator = np.random.default_rng(1)

    @tf.function
    def step(*grads):
        optimizer.apply(list(grads), made)

    optimizer.build(made)
    for _ in range(steps):
        step(*[tf.constant(generator.normal(size=v.shape), "float32") for v in made])
    return [v.numpy() for v in made]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_of_one_equal_the_stock_optimiser_bit_for_bit(kind):
    stock = KINDS[kind](0.05)
    ours = layerwise(KINDS[kind](0.05), [("v0", 1.0)])
    assert isinstance(ours, type(stock))
    for found, expected in zip(trained(ours), trained(stock), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSprop", "Lion", "Nadam", "AdamW"])
def test_a_factor_equals_the_stock_optimiser_at_that_rate(kind):
    ours = trained(layerwise(KINDS[kind](0.02), [("v1", 0.25)]))
    np.testing.assert_array_equal(ours[0], trained(KINDS[kind](0.02))[0])
    np.testing.assert_allclose(ours[1], trained(KINDS[kind](0.005))[1], atol=1e-7)


def test_a_factor_moves_a_variable_so_many_times_as_far():
    near, far, still = variables((3,), (3,), (3,))
    before = [v.numpy() for v in (near, far, still)]
    optimizer = layerwise(optimizers.SGD(0.5), [("v1", 4.0), (still, 0.0)])
    optimizer.apply([tf.ones(3)] * 3, [near, far, still])
    moved = [b - v.numpy() for b, v in zip(before, (near, far, still), strict=True)]
    np.testing.assert_allclose(moved, [[0.5] * 3, [2.0] * 3, [0.0] * 3], rtol=1e-6)


def test_decay_goes_with_the_multiplied_rate():
    full, half = variables((3,), (3,))
    before = [full.numpy(), half.numpy()]
    optimizer = layerwise(optimizers.SGD(0.5, weight_decay=0.1), [("v1", 0.5)])
    optimizer.apply([tf.zeros(3)] * 2, [full, half])
    np.testing.assert_allclose(full.numpy(), before[0] * 0.95, rtol=1e-6)
    np.testing.assert_allclose(half.numpy(), before[1] * 0.975, rtol=1e-6)


def test_what_was_excluded_from_decay_stays_excluded():
    kernel, other = variables((3,), (3,))
    before = kernel.numpy()
    stock = optimizers.SGD(0.5, weight_decay=0.1)
    stock.exclude_from_weight_decay(var_names=["v0"])
    optimizer = layerwise(stock, [])
    optimizer.apply([tf.zeros(3)] * 2, [kernel, other])
    np.testing.assert_array_equal(kernel.numpy(), before)


def test_frozen_variables_are_bit_identical_and_averages_stay_with_theirs():
    frozen, first, second = variables((3,), (3,), (3,))
    before = frozen.numpy()
    optimizer = layerwise(optimizers.SGD(0.5, weight_decay=0.1, use_ema=True, ema_momentum=0.5), [])
    optimizer.build([frozen, first, second])
    values = []
    for _ in range(2):
        optimizer.apply([tf.ones(3), tf.ones(3)], [first, second])
        values.append(second.numpy())
    optimizer.finalize_variable_values([first, second])
    np.testing.assert_array_equal(frozen.numpy(), before)
    np.testing.assert_allclose(second.numpy(), np.mean(values, 0), rtol=1e-6)


def test_a_schedule_counts_updates_when_gradients_are_accumulated():
    [kernel] = variables((3,))
    before = kernel.numpy()
    stock = optimizers.SGD(rate_schedule("linear", 1.0, 0, 10), gradient_accumulation_steps=2)
    optimizer = layerwise(stock, [("v0", 0.5)])
    for _ in range(6):
        optimizer.apply([tf.ones(3)], [kernel])
    np.testing.assert_allclose(before - kernel.numpy(), 0.5 * (1.0 + 0.9 + 0.8), rtol=1e-5)


def test_works_inside_a_loss_scale_optimiser():
    [kernel] = variables((3,))
    before = kernel.numpy()
    optimizer = optimizers.LossScaleOptimizer(
        layerwise(optimizers.SGD(0.5), [("v0", 0.5)]), initial_scale=8.0
    )
    for gradient in (8.0, np.inf, 4.0):  # the second halves the scale
        optimizer.apply([tf.fill(3, gradient)], [kernel])
    np.testing.assert_allclose(before - kernel.numpy(), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: LayerwiseAdamW(rate, weight_decay=0.1, multipliers=[("v0", 0.5)]),
        lambda rate: layerwise(optimizers.SGD(rate, 0.9, weight_decay=0.1), [("v0", 0.5)]),
        lambda rate: LayerwiseAdamW(rate, use_ema=True, clipnorm=0.1),
    ],
)
def test_a_distribution_strategy_of_one_device_changes_nothing(make):
    def run(strategy):
        with strategy.scope():
            made = variables((5, 3), (3,))
            optimizer = make(rate_schedule("cosine", 0.1, 2, 9))
            optimizer.build(made)

        @tf.function
        def step(*grads):
            # Multiplied: what is reduced must have been computed on a device.
            strategy.run(lambda *grads: optimizer.apply([g * 1.0 for g in grads], made), grads)

        generator = np.random.default_rng(1)
        for _ in range(5):
            step(*[tf.constant(generator.normal(size=v.shape), "float32") for v in made])
        optimizer.finalize_variable_values(made)
        return [v.numpy() for v in made]

    alone = run(tf.distribute.get_strategy())
    for a, b in zip(alone, run(tf.distribute.MirroredStrategy(["CPU:0"])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@keras.saving.register_keras_serializable("tests")
class Doubled(optimizers.SGD):
    """A user's own, which moves twice as far."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * 2.0, variable, learning_rate)


@pytest.mark.parametrize(
    "stock", [optimizers.SGD(0.1, momentum=0.9), optimizers.Adam(0.1), Doubled(0.1)]
)
def test_survives_a_keras_file(tmp_path, stock):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(2)])
    model.compile(layerwise(stock, [(model.layers[0].kernel, 0.5), ("bias", 2.0)]), "mse")
    x, y = np.ones((4, 3)), np.ones((4, 2))
    model.fit(x, y, verbose=0)
    layerwise(optimizers.Lion(), [])  # another class is made in between
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.optimizer) is type(model.optimizer)
    np.testing.assert_array_equal(again.optimizer._factors, [0.5, 2.0, 1.0, 2.0])
    for m in (model, again):
        m.fit(x, y, epochs=2, verbose=0)
    for found, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_configuration_takes_another_rate_like_that_of_any_optimiser():
    optimizer = layerwise(optimizers.SGD(0.1, momentum=0.9), [("v0", 0.5)])
    config = optimizer.get_config() | {"learning_rate": rate_schedule("constant", 0.4, 0, 9)}
    again = type(optimizer).from_config(config)
    assert (float(again.learning_rate), again.momentum) == (pytest.approx(0.4), 0.9)
    again.build(variables((3,), (3,)))
    np.testing.assert_array_equal(again._factors, [0.5, 1.0])


def test_optimisers_that_apply_the_rate_in_their_own_way_are_refused():
    wrapping = [
        optimizers.Muon(0.1),
        optimizers.LossScaleOptimizer(optimizers.SGD(0.1)),
        optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.SGD(0.1))),
    ]
    for optimizer in wrapping:
        with pytest.raises(UserError, match=f"{type(optimizer).__name__}, which applies its rate"):
            layerwise(optimizer, [])
    for optimizer in (LayerwiseAdamW(0.1), layerwise(optimizers.SGD(0.1), [])):
        with pytest.raises(UserError, match="takes multipliers itself"):
            layerwise(optimizer, [])
    with pytest.raises(UserError, match="'sgd'; give a keras"):
        layerwise("sgd", [])
    built = optimizers.SGD(0.1)
    built.build(variables((2,)))
    with pytest.raises(UserError, match="built already"):
        layerwise(built, [])
