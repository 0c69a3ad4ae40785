"""Mistakes in fitting, as they are made: one message each, and no weight has moved."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import (
    GradualUnfreezing,
    LayerwiseAdamW,
    Phase,
    UserError,
    add_lora,
    find_learning_rate,
    fit_phases,
)
from tf_finetune.optim.schedules import rate_schedule

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = (np.arange(32) % 2).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    layers = [keras.layers.Dense(4, name=f"block_{i}") for i in range(2)]
    end = [keras.layers.BatchNormalization(), keras.layers.Dense(2, name="logits")]
    return keras.Sequential([keras.Input((6,)), *layers, *end])


def phases(*given, **options):
    return lambda model: fit_phases(
        model, (X, Y), phases=list(given), loss=LOSS, say=lambda line: None, **options
    )


def callback(schedule, optimizer="adam", epochs=2, size=32):
    def run(model):
        model.compile(optimizer, LOSS)
        gradual = GradualUnfreezing(schedule, say=None)
        model.fit(X, Y, batch_size=size, epochs=epochs, verbose=0, callbacks=[gradual])

    return run


def multiplied(factor):
    def run(model):
        model.compile(LayerwiseAdamW(1e-2, multipliers=[("block", factor)]), LOSS)

    return run


# What is done; the message; and the row of the table in docs/training.md, if it has one.
MISTAKES = {
    "no phases": (phases(), r"phases is \[\]; give a recipe's name or a list of Phase", ""),
    "matches nothing": (
        phases(Phase(train="re:nothing_at_all")),
        r'train="re:nothing_at_all" matches none of the 10 paths.*block_0/kernel',
        "a selection that opens nothing",
    ),
    "trains statistics alone": (
        phases(Phase(train="re:moving_mean", batch_norm="update")),
        r're:moving_mean" selects only',
        "a selection that opens nothing",
    ),
    "unknown selector": (phases(Phase(train="heads")), r'train is "heads"; allowed.*"head"', ""),
    "no such block": (phases(Phase(train="last:9")), "has 2 blocks; set last:2 or less", ""),
    "no such layer": (phases(Phase(train="from:block_9")), "no block or layer of that name", ""),
    "unfreezing longer than training": (
        callback({0: "head", 5: "all"}),
        "opens layers at epoch 5, counted from 0, but fit has epochs=2; set epochs=6",
        "a `schedule` of `GradualUnfreezing` longer than `fit`",
    ),
    "accumulation not dividing": (
        callback({0: "head", 1: "all"}, LayerwiseAdamW(gradient_accumulation_steps=3), size=16),
        "gradient_accumulation_steps=3, which does not divide 2 batches",
        "`gradient_accumulation_steps` that does not divide the batches of an epoch",
    ),
    "accumulation in phases": (
        phases(Phase(), optimizer=LayerwiseAdamW(gradient_accumulation_steps=2)),
        "optimizer has gradient_accumulation_steps=2.*set micro_batch",
        "`gradient_accumulation_steps` of an optimiser in `fit_phases`",
    ),
    "parts larger than a batch": (
        phases(Phase(), micro_batch=64),
        "micro_batch is 64, but a batch has 32 examples",
        "",
    ),
    "warm-up as long as training": (
        lambda model: rate_schedule("linear", 1e-3, 10, 10),
        "warmup_steps is 10, but there are 10 updates in all",
        "a warm-up as long as the training",
    ),
    "warm-up longer than what opens last trains": (
        callback({0: "head", 1: "all"}, LayerwiseAdamW(warmup_steps=2), size=16),
        "warmup_steps=2, but what opens last trains for 2 updates",
        "a warm-up as long as the training",
    ),
    "warm-up of variables longer than all phases": (
        phases(Phase(), Phase(epochs=2), optimizer=LayerwiseAdamW(warmup_steps=3)),
        "warmup_steps=3, but what opens last trains for 3 updates",
        "a warm-up as long as the training",
    ),
    "warm-up of variables longer than the last phase": (
        phases(
            Phase(train="head", epochs=4),
            Phase(epochs=2),
            batch_size=16,
            optimizer=LayerwiseAdamW(warmup_steps=4),
        ),
        "warmup_steps=4, but what opens last trains for 4 updates",
        "a warm-up as long as the training",
    ),
    "rates by depth of another optimiser": (
        phases(Phase(layer_decay=0.9), optimizer=keras.optimizers.SGD()),
        "layer_decay is 0.9, but optimizer is a SGD of your own, which would not go by it",
        "`layer_decay`, `weight_decay` or `clip` beside an `optimizer` of your own",
    ),
    "decay of another optimiser": (
        phases(Phase(), weight_decay=0.1, optimizer=keras.optimizers.SGD()),
        "weight_decay is 0.1, but optimizer is a SGD of your own",
        "`layer_decay`, `weight_decay` or `clip` beside an `optimizer` of your own",
    ),
    "clipping of another optimiser in a search": (
        lambda model: find_learning_rate(
            model, (X, Y), loss=LOSS, clip=1.0, optimizer=keras.optimizers.SGD()
        ),
        "clip is 1, but optimizer is a SGD of your own",
        "`layer_decay`, `weight_decay` or `clip` beside an `optimizer` of your own",
    ),
    "negative decay": (phases(Phase(), weight_decay=-1.0), "weight_decay is -1.0; .* least 0", ""),
    "negative norm": (phases(Phase(), clip=-1.0), "clip is -1.0; it must be at least 0", ""),
    "batches of nothing": (phases(Phase(), batch_size=0), "batch_size is 0; .* least 1", ""),
    "warm-up of all": (phases(Phase(warmup=1.0)), r"phases\[0\].warmup is 1.0; .* below 1", ""),
    "negative multiplier": (
        multiplied(-0.5),
        r"multipliers\[0\] multiplies the rate by -0.5; the factor must be .* at least 0",
        "a negative or infinite multiplier",
    ),
    "plateau as a schedule": (
        lambda model: rate_schedule("plateau", 1e-3, 0, 10),
        "which keras.callbacks.ReduceLROnPlateau makes of a constant rate",
        "`learning_rate` set by `plateau` and by a schedule at once",
    ),
    "plateau beside a schedule": (
        phases(Phase(), callbacks=[keras.callbacks.ReduceLROnPlateau()]),
        r'but each Phase has a schedule of its rate.*schedule="plateau"',
        "`ReduceLROnPlateau` or `LearningRateScheduler` in `callbacks` of `fit_phases`",
    ),
    "LoRA where there is none": (
        lambda model: add_lora(model, targets="re:gamma"),
        r'targets="re:gamma" .* selects no layer that can have an adapter.*block_0',
        "adapters beside layers that have none, or without any",
    ),
    "a phase of LoRA without adapters": (phases(Phase(train="lora")), "call add_lora first", ""),
    "a loss of probabilities": (
        lambda model: fit_phases(
            model, (X, Y), phases=[Phase()], loss="sparse_categorical_crossentropy"
        ),
        "loss takes probabilities, but the model's last layer has no activation",
        "`from_logits=True` after a softmax or sigmoid",
    ),
    "a search on a model without weights": (
        lambda model: find_learning_rate(
            keras.Sequential([keras.layers.Dense(2)]), (X, Y), loss=LOSS
        ),
        "has no weights yet",
        "`find_learning_rate` with a model that has no weights yet",
    ),
}
ROW = (Path(__file__).parents[2] / "docs/training.md").read_text()


@pytest.mark.parametrize(("do", "message", "row"), MISTAKES.values(), ids=MISTAKES)
def test_one_message(do, message, row):
    model = network()
    before = model.get_weights()
    with pytest.raises(UserError) as raised:
        do(model)
    assert re.search(message, str(raised.value)), raised.value
    assert "\n" not in str(raised.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert f"\n| {row}" in ROW


@pytest.mark.parametrize("second", [Phase(train="all"), Phase(train="all", epochs=3)])
def test_a_phase_like_the_one_before_is_told_of(second):
    said = []
    fit_phases(network(), (X, Y), phases=[Phase(train="all"), second], loss=LOSS, say=said.append)
    assert said[0].startswith("phase all trains what phase all before it does, at the same 0.0001;")
    said.clear()
    other = Phase(train="all", learning_rate=1e-5)
    fit_phases(network(), (X, Y), phases=[Phase(train="all"), other], loss=LOSS, say=said.append)
    assert said[0].startswith("phase all: trainable")


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (Phase(train="all"), Phase(train="last:2"), True),  # there is nothing below
        (Phase(train="all"), Phase(train="last:1"), False),
        (Phase(train="all"), Phase(train="all", batch_norm="update"), False),
    ],
)
def test_phases_are_alike_that_open_the_same(first, second, alike):
    said = []
    fit_phases(network(), (X, Y), phases=[first, second], loss=LOSS, say=said.append)
    assert any("before it does, at the same" in line for line in said) is alike


def test_a_model_compiled_outside_of_its_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    def fit(model):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[GradualUnfreezing({0: "head"}, say=None)])

    with strategy.scope():
        inside = network()
    inside.compile(LayerwiseAdamW(1e-2), LOSS)
    with pytest.raises(UserError, match=r"trains under Mirrored.*was compiled under no strategy"):
        fit(inside)
    outside = network()
    with strategy.scope():
        outside.compile("adam", LOSS)
    with pytest.raises(UserError, match="made under no strategy, but was compiled under Mirrored"):
        fit(outside)
    outside = network()
    outside.compile("adam", LOSS)
    with strategy.scope(), pytest.raises(UserError, match="no strategy, but trains under Mirrored"):
        fit(outside)
    with pytest.raises(UserError, match=r"made under Mirrored.*but trains under no strategy"):
        phases(Phase())(inside)
    with strategy.scope():
        right = network()
        right.compile("adam", LOSS)
    fit(right)
