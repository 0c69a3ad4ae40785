import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.blocks import Groups
from tf_finetune.optim.layerwise import layerwise
from tf_finetune.optim.optimizers import LayerwiseAdamW, depth_multipliers
from tf_finetune.optim.schedules import rate_schedule

RATE, DECAY, EPSILON = 0.01, 0.1, 1e-7
# Of kernel, bias and late.
SHAPES = {"kernel": (4, 3), "bias": (2, 3), "late": (3, 2)}
MULTIPLIERS = [("^kernel$", 0.25), ("late", 0.5), ("kernel|late", 9.0)]
FACTORS, DECAYS = [0.25, 1.0, 0.5], [DECAY, 0.0, DECAY]
STEPS = 12


def by_hand(
    weights,
    steps,
    factors=FACTORS,
    decays=DECAYS,
    rate=lambda update: RATE,
    every=1,
    clipnorm=None,
    global_clipnorm=None,
    clipvalue=None,
    ema=None,
    warmup=0,
):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) in float64.

    `steps` has each micro-step's gradients, or a function of the weights that gives
    them; a variable whose gradient is None does not train. Returns weights and averages.
    """
    weights = [w.astype("float64") for w in weights]
    m, v, ages = ([0.0] * len(weights) for _ in range(3))
    averages = None
    for update in range(len(steps) // every):
        window = [s(weights) if callable(s) else s for s in steps[update * every :][:every]]
        grads = {
            i: sum(np.float64(step[i]) for step in window) / every
            for i, g in enumerate(window[0])
            if g is not None
        }
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        for i, g in grads.items():
            if clipnorm:
                g = g * min(1.0, clipnorm / np.linalg.norm(g))
            if global_clipnorm:
                g = g * min(1.0, global_clipnorm / norm)
            if clipvalue:
                g = np.clip(g, -clipvalue, clipvalue)
            ages[i] += 1
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            size = rate(update) * factors[i] * min(1.0, ages[i] / (warmup + 1))
            weights[i] = weights[i] - size * decays[i] * weights[i]
            size *= np.sqrt(1 - 0.999 ** ages[i]) / (1 - 0.9 ** ages[i])
            weights[i] = weights[i] - size * m[i] / (np.sqrt(v[i]) + EPSILON)
        if ema is not None:
            averages = averages or [w.copy() for w in weights]
            averages = [ema * a + (1 - ema) * w for a, w in zip(averages, weights, strict=True)]
    return weights, averages


def variable(name, shape, seed=0):
    value = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return keras.Variable(value, name=name), value


def three_variables():
    made = [variable(name, shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())]
    return [v for v, _ in made], [value for _, value in made]


def gradients_with_a_late_joiner(late=6):
    generator = np.random.default_rng(9)
    steps = []
    for step in range(STEPS):
        grads = [generator.normal(size=shape).astype("float32") for shape in SHAPES.values()]
        steps.append(grads if step >= late else [*grads[:2], None])
    return steps


def applying(optimizer, variables):
    return lambda *grads: optimizer.apply(list(grads), variables)


def train(optimizer, variables, steps, mode):
    """Applies gradients, scaled as the optimiser's loss is, of the variables that train."""
    applies = {}
    for grads in steps:
        known = tuple(i for i, g in enumerate(grads) if g is not None)
        if known not in applies:
            apply = applying(optimizer, [variables[i] for i in known])
            applies[known] = (
                apply if mode == "eager" else tf.function(apply, jit_compile=mode == "jit")
            )
        scale = float(optimizer.scale_loss(1.0))
        applies[known](*[tf.constant(grads[i] * scale) for i in known])


def schedule_by_hand(update):
    return RATE * (update + 1) / 3 if update < 2 else RATE * (STEPS - update) / (STEPS - 2)


PLAIN = ({}, {})
ALL_TOGETHER = (
    {
        "global_clipnorm": 1.5,
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_momentum": 0.6,
        "warmup_steps": 2,
        "learning_rate": rate_schedule("linear", RATE, 2, STEPS),
    },
    {"global_clipnorm": 1.5, "every": 2, "ema": 0.6, "rate": schedule_by_hand, "warmup": 2},
)
TABLE = {
    "plain": PLAIN,
    "clipnorm": ({"clipnorm": 0.5}, {"clipnorm": 0.5}),
    "global_clipnorm": ({"global_clipnorm": 1.5}, {"global_clipnorm": 1.5}),
    "clipvalue": ({"clipvalue": 0.3}, {"clipvalue": 0.3}),
    "accumulation": ({"gradient_accumulation_steps": 2}, {"every": 2}),
    "schedule": (
        {"learning_rate": rate_schedule("linear", RATE, 2, STEPS)},
        {"rate": schedule_by_hand},
    ),
    "warm-up of each variable": ({"warmup_steps": 3}, {"warmup": 3}),
    "ema": ({"use_ema": True, "ema_momentum": 0.6}, {"ema": 0.6}),
    "all": ALL_TOGETHER,
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "graph") for name in TABLE),
        *(("plain", "eager"), ("all", "eager")),
        *(("plain", "jit"), ("global_clipnorm", "jit"), ("all", "jit")),
    ],
)
@pytest.mark.parametrize("scaling", ["none", "fixed", "dynamic"])
def test_equals_float64_by_hand(name, mode, scaling):
    settings, expected = TABLE[name]
    variables, values = three_variables()
    steps = gradients_with_a_late_joiner()
    inner = LayerwiseAdamW(
        **{"learning_rate": RATE, "weight_decay": DECAY, **settings},
        multipliers=MULTIPLIERS,
        loss_scale_factor=8.0 if scaling == "fixed" else None,
    )
    optimizer = (
        keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=3)
        if scaling == "dynamic"
        else inner
    )
    optimizer.build(variables)
    train(optimizer, variables, steps, mode)
    weights, averages = by_hand(values, steps, **expected)
    for found, hand in zip(variables, weights, strict=True):
        np.testing.assert_allclose(found.numpy(), hand, atol=1e-6, rtol=0)
    if averages:
        optimizer.finalize_variable_values(variables)
        for found, hand in zip(variables, averages, strict=True):
            np.testing.assert_allclose(found.numpy(), hand, atol=1e-6, rtol=0)


def test_a_step_that_overflows_is_no_update():
    variables, values = three_variables()
    steps = gradients_with_a_late_joiner()
    broken = [g if g is None else g * np.inf for g in steps[4]]
    inner = LayerwiseAdamW(RATE, weight_decay=DECAY, multipliers=MULTIPLIERS)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build(variables)
    train(optimizer, variables, [*steps[:4], broken, *steps[4:]], "graph")
    for found, hand in zip(variables, by_hand(values, steps)[0], strict=True):
        np.testing.assert_allclose(found.numpy(), hand, atol=1e-6, rtol=0)
    assert {name: age for name, (age, _, _) in inner.state().items()} == {
        "kernel": STEPS,
        "bias": STEPS,
        "late": STEPS - 6,
    }


@pytest.mark.parametrize(
    "options", [{"steps_per_execution": 3}, {"jit_compile": True}, {}], ids=str
)
def test_fit_equals_float64_by_hand(options):
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(32, n)).astype("float32") for n in (3, 2))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    values = model.get_weights()
    optimizer = LayerwiseAdamW(RATE, weight_decay=DECAY, multipliers=[("kernel", 0.5)])
    model.compile(optimizer, "mse", **{"jit_compile": False, **options})
    model.fit(x, y, batch_size=4, verbose=0, shuffle=False)

    def gradient(x, y):
        def at(weights):
            error = (x @ weights[0] + weights[1] - y) * 2 / y.size
            return x.T @ error, error.sum(0)

        return at

    steps = [gradient(x[i : i + 4], y[i : i + 4]) for i in range(0, 32, 4)]
    weights, _ = by_hand(values, steps, [0.5, 1.0], [DECAY, 0.0])
    for found, hand in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, hand, atol=1e-6, rtol=0)


def test_first_step_of_a_late_variable_is_one_rate_where_stock_adam_takes_three():
    """Stock Adam corrects for the steps of all; should this fail, Keras has mended it."""
    moved = {}
    for kind in (LayerwiseAdamW, keras.optimizers.Adam):
        (old, _), (late, before) = variable("old", (3,)), variable("late", (3,), seed=1)
        optimizer = kind(RATE)
        optimizer.build([old, late])
        optimizer.iterations.assign(2000)
        optimizer.apply([tf.ones(3)], [late])
        moved[kind] = (before - late.numpy()) / RATE
    np.testing.assert_allclose(moved[LayerwiseAdamW], 1.0, rtol=1e-4)
    np.testing.assert_allclose(moved[keras.optimizers.Adam], 2.94, rtol=1e-2)


def test_the_warm_up_of_a_variable_is_that_of_a_schedule_from_its_own_first_update():
    runs = []
    for optimizer in (
        LayerwiseAdamW(RATE, warmup_steps=4),
        LayerwiseAdamW(rate_schedule("constant", RATE, 4, 99)),
    ):
        (old, _), (late, _) = variable("old", (3,)), variable("late", (3,), seed=1)
        optimizer.build([old, late])
        if optimizer.warmup_steps:
            optimizer.apply([tf.ones(3)], [old])  # a step that the late one is not in
        seen = []
        for step in range(8):
            optimizer.apply([tf.fill(3, float(step + 1))], [late])
            seen.append(late.numpy())
        runs.append(seen)
    np.testing.assert_allclose(*runs, atol=1e-7)


@pytest.mark.parametrize("steps", [-1, 2.5, True, "10"])
def test_a_warm_up_that_is_no_number_of_updates_is_refused(steps):
    with pytest.raises(UserError, match=r"warmup_steps is .* whole number of updates"):
        LayerwiseAdamW(RATE, warmup_steps=steps)


def test_a_schedule_counts_updates_where_stock_keras_counts_micro_steps():
    """Should this fail for the stock optimiser, Keras has mended it."""
    rates = {}
    for kind in (LayerwiseAdamW, keras.optimizers.AdamW):
        kernel, _ = variable("kernel", (2, 2))
        optimizer = kind(rate_schedule("linear", 1.0, 0, 10), gradient_accumulation_steps=2)
        for _ in range(4):
            optimizer.apply([tf.ones((2, 2))], [kernel])
        rates[kind] = float(optimizer.learning_rate)
    assert rates[LayerwiseAdamW] == pytest.approx(0.8)
    assert rates[keras.optimizers.AdamW] == pytest.approx(0.6)


def trained_in_part(kind):
    """Two variables of one shape, of which the second alone goes on training."""
    (first, _), (second, _) = variable("first", (3,)), variable("second", (3,), seed=1)
    optimizer = kind(RATE, use_ema=True, ema_momentum=0.5)
    optimizer.build([first, second])
    optimizer.apply([tf.ones(3), tf.ones(3)], [first, second])
    optimizer.apply([tf.ones(3)], [second])
    before = first.numpy(), second.numpy()
    optimizer.finalize_variable_values([second])
    return before, (first.numpy(), second.numpy())


def test_averages_stay_with_their_variables_when_only_some_train():
    (first, second), (first_after, second_after) = trained_in_part(LayerwiseAdamW)
    np.testing.assert_array_equal(first_after, first)
    # Halfway between its values after the first and the second step of one rate each.
    np.testing.assert_allclose(second_after, second + RATE / 2, atol=1e-5)


def test_stock_keras_gives_a_variable_the_average_of_another():
    """Should this fail, Keras has mended it, and our own pairing can go."""
    (first, _), (_, second_after) = trained_in_part(keras.optimizers.AdamW)
    np.testing.assert_allclose(second_after, first, atol=1e-6)


def test_frozen_variables_are_bit_identical_when_averages_overwrite_the_others():
    (frozen, before), (trained, _) = variable("frozen", (50,)), variable("trained", (50,), seed=1)
    optimizer = LayerwiseAdamW(RATE, use_ema=True, ema_overwrite_frequency=2)
    optimizer.build([frozen, trained])
    for _ in range(8):
        optimizer.apply([tf.ones(50)], [trained])
    np.testing.assert_array_equal(frozen.numpy(), before)
    np.testing.assert_array_equal(
        trained.numpy(), optimizer._model_variables_moving_average[1].numpy()
    )


def test_averages_overwrite_after_updates_not_micro_steps():
    kernel, before = variable("kernel", (3,))
    optimizer = LayerwiseAdamW(
        RATE, use_ema=True, ema_overwrite_frequency=2, gradient_accumulation_steps=2
    )
    seen = [before]
    for _ in range(4):
        optimizer.apply([tf.ones(3)], [kernel])
        seen.append(kernel.numpy())
    np.testing.assert_array_equal(seen[1], seen[0])
    np.testing.assert_array_equal(seen[3], seen[2])
    # The second update of one rate, of which the average takes a hundredth.
    np.testing.assert_allclose(seen[2] - seen[4], RATE / 100, rtol=1e-2)


def test_averages_of_a_training_without_an_update_are_not_used():
    kernel, before = variable("kernel", (3,))
    optimizer = LayerwiseAdamW(RATE, use_ema=True, gradient_accumulation_steps=2)
    optimizer.apply([tf.ones(3)], [kernel])
    optimizer.finalize_variable_values([kernel])
    np.testing.assert_array_equal(kernel.numpy(), before)


@pytest.mark.parametrize(
    "options", [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"clipvalue": 1.2}], ids=str
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_sparse_gradients_are_those_of_their_dense_form(options, accumulate, scale):
    table, before = variable("embeddings", (5, 2))
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [0.5, 0.5]], "float32")
    optimizer = LayerwiseAdamW(
        RATE,
        weight_decay=DECAY,
        loss_scale_factor=scale,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        **options,
    )
    for sign in (1.0, -0.5) * accumulate:
        slices = tf.IndexedSlices(rows * sign * (scale or 1.0), [1, 3, 1], [5, 2])
        optimizer.apply([slices], [table])
    dense = np.zeros((5, 2))
    dense[1], dense[3] = rows[0] + rows[2], rows[1]
    steps = [[dense * sign] for sign in (1.0, -0.5) * accumulate]
    weights, _ = by_hand([before], steps, [1.0], [DECAY], every=accumulate, **options)
    np.testing.assert_allclose(table.numpy(), weights[0], atol=1e-6)


def test_stock_keras_clips_rows_that_occur_twice_before_it_adds_them_up():
    """Should this fail, Keras has mended it, and our own adding up can go."""
    stock = keras.optimizers.SGD(1.0, global_clipnorm=1.0)
    moved = []
    ours = layerwise(stock, [])
    for optimizer in (stock, ours):
        table = keras.Variable(np.zeros((5, 2), "float32"), name="embeddings")
        rows = tf.constant([[1.0, 2.0], [3.0, 4.0], [0.5, 0.5]])
        optimizer.apply([tf.IndexedSlices(rows, [1, 3, 1], [5, 2])], [table])
        moved.append(np.linalg.norm(table.numpy()))
    assert moved == pytest.approx([1.048, 1.0], abs=1e-3)


def test_state_goes_on_where_another_optimiser_stopped():
    variables, values = three_variables()
    steps = gradients_with_a_late_joiner()
    first = LayerwiseAdamW(RATE, weight_decay=DECAY, multipliers=MULTIPLIERS)
    first.build(variables[:2])
    train(first, variables, steps[:6], "graph")
    second = LayerwiseAdamW(RATE, weight_decay=DECAY, multipliers=MULTIPLIERS)
    second.build(variables[::-1])
    second.load_state(first.state())
    train(second, variables, steps[6:], "graph")
    for found, hand in zip(variables, by_hand(values, steps)[0], strict=True):
        np.testing.assert_allclose(found.numpy(), hand, atol=1e-6, rtol=0)


def test_state_tells_variables_of_one_path_apart():
    tower, other, third = (variable("kernel", (2, 2), seed)[0] for seed in range(3))
    model = [tower, other, third]
    optimizer = LayerwiseAdamW(RATE)
    optimizer.apply([tf.fill((2, 2), 1.0 + i) for i in range(3)], model)
    state = optimizer.state()
    assert list(state) == ["kernel", "kernel#2", "kernel#3"]
    part = LayerwiseAdamW(RATE)
    part.build([third, other])
    with pytest.raises(UserError, match=r"3 variables with the path kernel.*trains 2"):
        part.load_state(state)
    part.load_state(state, model)
    assert [m.numpy()[0, 0] for m in part._momentums] == pytest.approx([0.3, 0.2])
    assert {name: age for name, (age, _, _) in part.state(model).items()} == {
        "kernel#3": 1,
        "kernel#2": 1,
    }
    with pytest.raises(UserError, match="variables lack kernel"):
        part.state([tower, other])


def test_state_of_another_shape_is_refused():
    optimizer, other = LayerwiseAdamW(RATE), LayerwiseAdamW(RATE)
    optimizer.build([variable("kernel", (2, 2))[0]])
    other.build([variable("kernel", (2, 3))[0]])
    with pytest.raises(UserError, match=r"kernel has the shape \(2, 2\), the variable \(2, 3\)"):
        other.load_state(optimizer.state())


def test_survives_a_keras_file(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = LayerwiseAdamW(
        rate_schedule("linear", 0.1, 2, 9),
        weight_decay=0.1,
        multipliers=[("kernel", 0.5)],
        warmup_steps=7,
    )
    model.compile(optimizer, "mse")
    x, y = np.ones((4, 3)), np.ones((4, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for m in (model, again):
        m.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])
    np.testing.assert_array_equal(again.optimizer._factors, [0.5, 1.0])
    assert again.optimizer.warmup_steps == 7


def test_only_kernels_that_are_not_excluded_decay():
    names = ["kernel", "embeddings", "bias", "layer_norm_gamma", "quiet"]
    made = [variable(name, (2, 2)) for name in names] + [variable("scale", (2,))]
    optimizer = LayerwiseAdamW(RATE, weight_decay=DECAY)
    optimizer.exclude_from_weight_decay(var_names=["quiet"])
    variables = [v for v, _ in made]
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    moved = [not np.array_equal(v.numpy(), before) for v, before in made]
    assert moved == [True, True, False, False, False, False]


def operations(count):
    """How many operations of each kind a step on so many variables has."""
    variables = [variable(f"kernel_{i}", (2, 2))[0] for i in range(count)]
    optimizer = LayerwiseAdamW(
        rate_schedule("cosine", RATE, 2, 9), weight_decay=DECAY, multipliers=[("_1", 0.5)]
    )
    optimizer.build(variables)
    step = tf.function(lambda *grads: optimizer.apply(list(grads), variables))
    graph = step.get_concrete_function(*[tf.ones((2, 2))] * count).graph
    return [op.type for op in graph.get_operations() if op.type != "Placeholder"]


def test_rates_are_computed_once_a_step_not_once_a_variable():
    few, many = operations(2), operations(12)
    for kind in ("Pow", "Sqrt", "If", "StatelessIf"):
        assert few.count(kind) == many.count(kind), kind
    # Its decay (read, which is two, multiply, subtract) and the kernel.
    assert len(many) - len(few) <= 10 * 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_variables_that_are_not_float32_are_refused(dtype):
    half = keras.Variable(np.ones((2, 2)), dtype=dtype, name="kernel")
    with pytest.raises(UserError, match=f"kernel is {dtype}.*mixed_bfloat16"):
        LayerwiseAdamW(RATE).build([half])


def test_amsgrad_is_refused():
    with pytest.raises(UserError, match="amsgrad"):
        LayerwiseAdamW(0.1, amsgrad=True)


def dense(name):
    layer = keras.layers.Dense(2, name=name)
    layer.build((None, 2))
    return layer


def groups_of(stem, blocks, head):
    layers = [*stem, *(layer for block in blocks for layer in block), *head]
    model = keras.Sequential([keras.Input((2,)), *dict.fromkeys(layers)])
    names = [block[0].name for block in blocks]
    return Groups(model=model, stem=stem, blocks=blocks, head=head, names=names)


def test_rates_fall_from_the_head_to_the_stem():
    stem, first, between, last, head = (dense(name) for name in "abcde")
    groups = groups_of([stem], [[first, between], [last]], [head])
    found = depth_multipliers(groups, 0.5)
    assert [(v.path, factor) for v, factor in found if v.path.endswith("kernel")] == [
        ("a/kernel", 0.125),
        ("b/kernel", 0.25),
        ("c/kernel", 0.25),
        ("d/kernel", 0.5),
        ("e/kernel", 1.0),
    ]


def test_a_tied_variable_has_the_lower_rate():
    tied = dense("tied")
    groups = groups_of([tied], [], [tied])
    optimizer = LayerwiseAdamW(RATE, multipliers=depth_multipliers(groups, 0.5))
    optimizer.build(tied.trainable_variables)
    np.testing.assert_array_equal(optimizer._factors, [0.5, 0.5])


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_depth_decay_out_of_range_is_refused(decay):
    with pytest.raises(UserError, match=f"decay is {decay}"):
        depth_multipliers(groups_of([dense("stem")], [], []), decay)
