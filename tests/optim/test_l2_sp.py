"""Weights held near those before fine-tuning: equal to the formula, and nothing else changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fit.test_phased import LOSS, batches, fit, nested
from tests.runs import classes, config_for
from tf_finetune import LayerwiseAdamW, Phase, UserError, add_lora, fine_tune
from tf_finetune.model import backbones
from tf_finetune.model.blocks import layer_groups
from tf_finetune.optim.l2_sp import anchors_of
from tf_finetune.optim.schedules import rate_schedule

STEPS, L2_SP, DECAY, EPSILON = 12, 3.0, 0.1, 1e-7
FACTORS = (0.25, 1.0, 0.5)
RANDOM = np.random.default_rng(0)
VALUES = [RANDOM.normal(size=shape).astype("float32") for shape in ((20, 30), (7,), (4, 2))]
ANCHORS = [VALUES[0], VALUES[1] + 0.5, None]
GRADIENTS = [[RANDOM.normal(size=v.shape).astype("float32") for v in VALUES] for _ in range(STEPS)]


def rate(update):
    return 0.02 * (update + 1) / 3 if update < 2 else 0.02 * (STEPS - update) / (STEPS - 2)


def by_hand(every=1):
    """AdamW in float64 (Loshchilov & Hutter 2019, algorithm 2), with L2-SP for its decay."""
    weights = [v.astype("float64") for v in VALUES]
    m, v = [0.0] * 3, [0.0] * 3
    for update in range(STEPS // every):
        window = GRADIENTS[update * every :][:every]
        for i, (factor, anchor) in enumerate(zip(FACTORS, ANCHORS, strict=True)):
            g = sum(np.float64(step[i]) for step in window) / every
            size, w = rate(update) * factor, weights[i]
            w = w - size * (DECAY * w if anchor is None else L2_SP * (w - anchor))
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            size *= np.sqrt(1 - 0.999 ** (update + 1)) / (1 - 0.9 ** (update + 1))
            weights[i] = w - size * m[i] / (np.sqrt(v[i]) + EPSILON)
    return weights


def variables():
    return [keras.Variable(v, name=f"kernel_{i}") for i, v in enumerate(VALUES)]


def optimizer(made, **options):
    return LayerwiseAdamW(
        rate_schedule("linear", 0.02, 2, STEPS),
        weight_decay=DECAY,
        multipliers=[("_0", FACTORS[0]), ("_2", FACTORS[2])],
        l2_sp=L2_SP,
        anchors=[(v, a) for v, a in zip(made, ANCHORS, strict=True) if a is not None],
        **options,
    )


def step(optimizer, made, mode):
    def apply(*grads):
        optimizer.apply(list(grads), made)

    return apply if mode == "eager" else tf.function(apply, jit_compile=mode == "jit")


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("every", [1, 2])
def test_equals_float64_by_hand(mode, every):
    made = variables()
    ours = optimizer(made, gradient_accumulation_steps=every if every > 1 else None)
    ours.build(made)
    apply = step(ours, made, mode)
    for grads in GRADIENTS:
        apply(*map(tf.constant, grads))
    for found, hand in zip(made, by_hand(every), strict=True):
        np.testing.assert_allclose(found.numpy(), hand, atol=1e-6, rtol=0)


def test_a_file_keeps_the_anchors_and_a_configuration_alone_is_refused(tmp_path):
    def trained(model):
        model.fit(batches(), shuffle=False, verbose=0)

    model = nested()
    anchors = anchors_of(layer_groups(model), [Phase(train="last:1")], 1.0)
    assert [v.path.split("/", 1)[1] for v, _ in anchors] == ["block_2/kernel", "block_2/bias"]
    model.compile(LayerwiseAdamW(1e-2, l2_sp=50.0, anchors=anchors), LOSS)
    trained(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    new = keras.models.clone_model(model)
    new.compile(LayerwiseAdamW.from_config(model.optimizer.get_config()), LOSS)
    with pytest.raises(UserError, match="l2_sp is 50, but the optimiser was given no anchors"):
        trained(new)
    for one in (model, again):
        trained(one)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_two_phases_pull_to_the_start_of_the_run():
    """As one plain fit does whose anchors are from its start."""
    ours = nested()
    plain = keras.models.clone_model(ours)
    plain.set_weights(ours.get_weights())
    phase = Phase(epochs=2, learning_rate=1e-2, schedule="constant", warmup=0.0)
    options = {"validation": None, "weight_decay": DECAY, "clip": 0.0, "train": batches()}
    fit(ours, phase, phase, l2_sp=20.0, **options)
    anchors = [(v, v.numpy()) for v in plain.layers[0].weights]
    plain.compile(LayerwiseAdamW(1e-2, weight_decay=DECAY, l2_sp=20.0, anchors=anchors), LOSS)
    plain.fit(batches(), epochs=4, shuffle=False, verbose=0)
    for a, b in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)
    without = nested()
    without.set_weights([value for _, value in anchors] + plain.get_weights()[-2:])
    fit(without, phase, phase, **options)
    for (_, start), near, far in zip(anchors, ours.weights, without.weights, strict=False):
        assert np.abs(near.numpy() - start).max() < np.abs(far.numpy() - start).max()


def test_a_run_holds_its_backbone_and_not_its_head(preset, tmp_path):
    def run(name, **changes):
        config = config_for(preset, epochs=2, learning_rate=1e-2, weight_decay=0.0, **changes)
        return fine_tune(config, tmp_path / name, classes(), say=lambda line: None).model

    def moved(model):
        start = backbones.load(str(preset)).backbone.weights
        pairs = zip(model.backbone.weights, start, strict=True)
        return max(np.abs(a.numpy() - b.numpy()).max() for a, b in pairs)

    assert moved(run("held", l2_sp=90.0)) < 0.5 * moved(run("free"))


def with_adapters():
    model = nested()
    add_lora(model, rank=1, targets="re:kernel")
    return model


@pytest.mark.parametrize(
    ("build", "phases", "options", "message"),
    [
        (nested, [Phase()], {"l2_sp": -1.0}, "l2_sp is -1.0; it must be at least 0"),
        (nested, [Phase()], {"l2_sp": float("nan")}, "l2_sp is nan"),
        (nested, [Phase(train="head")], {"l2_sp": 1.0}, "no phase trains pretrained weights"),
        (with_adapters, [Phase(train="lora")], {"l2_sp": 1.0}, "the model has adapters"),
        (
            nested,
            [Phase()],
            {"l2_sp": 1.0, "optimizer": keras.optimizers.SGD()},
            "l2_sp is 1, but optimizer is a SGD of your own",
        ),
        (
            nested,
            [Phase()],
            {"optimizer": LayerwiseAdamW(l2_sp=2.0)},
            "l2_sp is 2, but optimizer is a LayerwiseAdamW of your own",
        ),
    ],
)
def test_what_could_not_hold_anything_is_refused(build, phases, options, message):
    model = build()
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, *phases, **options)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "phases", ["probe", "lora", (Phase(train="head"),), (Phase(), Phase(train="lora"))]
)
def test_a_configuration_that_could_not_is_refused(preset, phases):
    with pytest.raises(UserError, match=r"config\.fit\.l2_sp is 0\.1, .*; it needs a phase"):
        config_for(preset, phases=phases, l2_sp=0.1).validate()


def test_anchors_that_do_not_fit_are_refused():
    made = variables()
    with pytest.raises(UserError, match="anchors is set, but l2_sp is 0"):
        LayerwiseAdamW(anchors=[(made[0], VALUES[0])])
    wrong = LayerwiseAdamW(l2_sp=1.0, anchors=[(made[0], VALUES[1])])
    with pytest.raises(UserError, match=r"a value of shape \(7,\) for kernel_0.*\(20, 30\)"):
        wrong.build(made)
