import keras
import numpy as np
import pytest

from tests.tiny import tiny_task
from tf_finetune.errors import UserError
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import (
    count_parameters,
    frozen_dropout_off,
    selected,
    set_trainable,
)

layers = keras.layers


@pytest.fixture(scope="module")
def task():
    return tiny_task()


@pytest.fixture(scope="module")
def groups(task):
    return layer_groups(task.network, task.backbone)


def conv_model(width=4, drop=0.0):
    """A stem, two named residual blocks and a head, BatchNormalization in all of them."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6, 6, 2))
    x = layers.Conv2D(width, 3, padding="same", name="stem_conv")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    for i in (1, 2):
        y = layers.Conv2D(width, 3, padding="same", name=f"block{i}_conv")(x)
        y = layers.BatchNormalization(name=f"block{i}_bn")(y)
        y = layers.Dropout(drop, name=f"block{i}_drop")(y)
        x = layers.Add(name=f"block{i}_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(3, use_bias=False, name="hidden")(x)
    x = layers.BatchNormalization(name="head_bn")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x), name="conv")


def conv_data():
    random = np.random.default_rng(0)
    return random.normal(3, 2, (16, 6, 6, 2)).astype("float32"), np.arange(16) % 2


def fit(model):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*conv_data(), batch_size=8, epochs=2, verbose=0)


def values(model):
    return {v.path: v.numpy() for v in model.weights}


def moved(model):
    """Paths of the weights that a fit changes in any bit."""
    before = values(model)
    fit(model)
    return {path for path, v in values(model).items() if not np.array_equal(before[path], v)}


def opened(model):
    return {v.path for v in model.trainable_weights}


def owners(paths):
    return {path.split("/")[0] for path in paths}


HEAD = {"hidden/kernel", "logits/kernel", "logits/bias"}
HEAD |= {"head_bn/gamma", "head_bn/beta"}


@pytest.mark.parametrize(
    ("train", "blocks"),
    [("head", []), ("last:1", [2]), ("last:2", [1, 2]), ("last:3", [0, 1, 2])],
)
def test_head_and_last_blocks(task, groups, train, blocks):
    set_trainable(groups, train)
    expected = {"logits"} | {f"transformer_layer_{i}" for i in blocks}
    assert owners(opened(task.network)) == expected


def test_all_opens_everything(task, groups):
    set_trainable(groups, "all")
    assert opened(task.network) == {v.path for v in task.network.weights}


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("from:block2", {"block2_conv", "block2_bn", "hidden", "head_bn", "logits"}),
        ("from:block2_bn", {"block2_bn", "hidden", "head_bn", "logits"}),
        ("from:stem_bn", {"stem_bn", "block1_conv", "block1_bn", "block2_conv", "block2_bn"}),
        ("from:head_bn", {"head_bn", "logits"}),
    ],
)
def test_from_a_block_or_layer_to_the_end(train, expected):
    model = conv_model()
    set_trainable(layer_groups(model), train, "update")
    if "stem" in train:
        expected = expected | {"hidden", "head_bn", "logits"}
    assert owners(opened(model)) == expected


def test_norm_opens_scales_and_offsets_and_the_head(task, groups):
    set_trainable(groups, "norm")
    norms = {v.path for v in task.network.weights if v.name in ("gamma", "beta")}
    assert len(norms) == 2 * (1 + 2 * 3)
    assert opened(task.network) == norms | {"logits/kernel", "logits/bias"}


def test_norm_opens_no_moving_statistics():
    model = conv_model()
    set_trainable(layer_groups(model), "norm", "update")
    body = {f"{x}_bn/{name}" for x in ("stem", "block1", "block2") for name in ("gamma", "beta")}
    assert opened(model) == body | HEAD


def test_bias_opens_all_biases_and_the_head(task, groups):
    set_trainable(groups, "bias")
    biases = {v.path for v in task.network.weights if v.name in ("bias", "beta")}
    assert len(biases) == 1 + 3 * (4 + 2 + 2) + 1
    assert opened(task.network) == biases | {"logits/kernel"}


def test_a_pattern_opens_what_it_finds_and_nothing_else(task, groups):
    set_trainable(groups, r"re:layer_[12]/.*(query|value)/kernel$")
    names = {f"transformer_layer_{i}/self_attention_layer/{x}" for i in (1, 2) for x in "qv"}
    assert len(opened(task.network)) == len(names) == 4
    assert all(path.endswith(("query/kernel", "value/kernel")) for path in opened(task.network))


def test_a_pattern_cannot_open_what_no_gradient_trains():
    model = conv_model()
    set_trainable(layer_groups(model), "re:block1_bn/", "update")
    assert opened(model) == {"block1_bn/gamma", "block1_bn/beta"}
    with pytest.raises(UserError, match=r"moving_mean\" selects only .* that no gradient trains"):
        set_trainable(layer_groups(model), "re:moving_mean")


def test_selected_weights_are_told_without_a_change():
    model = conv_model()
    before = flags(model)
    paths = {v.path for v in selected(layer_groups(model), "re:block1_bn/")}
    assert paths == {f"block1_bn/{x}" for x in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert flags(model) == before


def flags(model):
    """Of all layers but inputs, whose names count up, and of all variables."""
    found = [x for x in model._flatten_layers() if not isinstance(x, layers.InputLayer)]
    flags = [(layer.name, layer.trainable) for layer in found]
    return flags + [(v.path, v.trainable) for v in model.variables]


SELECTIONS = [
    (train, policy)
    for train in ("head", "all", "last:1", "from:block1_bn", "norm", "bias", "re:conv/kernel")
    for policy in ("freeze", "affine", "update")
    if (train, policy) != ("norm", "freeze")
]


@pytest.mark.parametrize("nested", [False, True])
def test_a_selection_undoes_whatever_was_set_before(nested):
    def build():
        model = conv_model()
        if not nested:
            return model
        body = keras.Model(model.input, model.get_layer("block2_add").output, name="body")
        head = [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2, name="logits")]
        return keras.Sequential([body, *head], name="outer")

    model = build()
    groups = layer_groups(model)
    fresh = {}
    for train, policy in SELECTIONS:
        other = build()
        set_trainable(layer_groups(other), train, policy)
        fresh[train, policy] = flags(other)
    assert len({str(state) for state in fresh.values()}) > 12
    random = np.random.default_rng(1)
    for step in range(60):
        if step % 5 == 0:  # as a user may do
            model.layers[random.integers(len(model.layers))].trainable = bool(step % 2)
        if step % 7 == 0:
            model.trainable = False
        train, policy = SELECTIONS[random.integers(len(SELECTIONS))]
        set_trainable(groups, train, policy)
        assert flags(model) == fresh[train, policy], (train, policy)


def test_a_model_that_was_saved_frozen_can_be_opened(tmp_path):
    model = conv_model()
    set_trainable(layer_groups(model), "re:logits")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    set_trainable(layer_groups(again), "last:1")
    assert moved(again) >= {"block2_conv/kernel", "hidden/kernel", "logits/kernel"}


def test_tied_weights_belong_to_where_data_meet_them_first():
    ids = keras.Input((4,), dtype="int32")
    table = layers.Embedding(7, 3, name="table")
    x = layers.LSTM(3, return_sequences=True, name="lstm")(table(ids))
    model = keras.Model(ids, layers.Dense(2, name="logits")(Tied(table, name="tied")(x)))
    set_trainable(layer_groups(model), "head")
    assert opened(model) == {"logits/kernel", "logits/bias"}
    set_trainable(layer_groups(model, "lstm"), "head")
    assert owners(opened(model)) == {"logits", "tied"}
    assert not any("embeddings" in path for path in opened(model))


class Tied(layers.Layer):
    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def build(self, shape):
        self.offset = self.add_weight(shape=(7,), name="offset")

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings)) + self.offset


# --- BatchNormalization ---


STATISTICS = {
    f"{x}_bn/{name}"
    for x in ("stem", "block1", "block2")
    for name in ("moving_mean", "moving_variance")
}
HEAD_STATISTICS = {"head_bn/moving_mean", "head_bn/moving_variance"}


def test_frozen_batch_norm_keeps_every_bit_in_a_fit():
    model = conv_model()
    set_trainable(layer_groups(model), "all")
    body = {f"{x}_conv/{name}" for x in ("stem", "block1", "block2") for name in ("kernel", "bias")}
    assert moved(model) == body | HEAD | HEAD_STATISTICS


def test_affine_trains_scale_and_offset_on_frozen_statistics():
    model = conv_model()
    set_trainable(layer_groups(model), "norm", "affine")
    affine = {f"{x}_bn/{name}" for x in ("stem", "block1", "block2") for name in ("gamma", "beta")}
    assert moved(model) == affine | HEAD | HEAD_STATISTICS
    body = keras.Model(model.input, model.get_layer("block2_add").output)
    x = conv_data()[0]
    np.testing.assert_array_equal(body(x, training=True), body(x, training=False))


def test_update_moves_statistics_where_selected_only():
    model = conv_model()
    set_trainable(layer_groups(model), "last:1", "update")
    changed = moved(model) & STATISTICS
    assert changed == {"block2_bn/moving_mean", "block2_bn/moving_variance"}


def test_a_head_in_a_phase_without_it_keeps_its_statistics():
    model = conv_model()
    set_trainable(layer_groups(model), "re:block2_conv/kernel", "update")
    assert moved(model) == {"block2_conv/kernel"}


@pytest.mark.parametrize("policy", ["freeze", "affine", "update"])
def test_batch_norm_without_scale_and_offset(policy):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="conv")(inputs)
    x = layers.BatchNormalization(scale=False, center=False, name="bn")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    set_trainable(layer_groups(model), "all", policy)
    assert ("bn/moving_mean" in moved(model)) == (policy == "update")
    set_trainable(layer_groups(model), "head", policy)
    assert "bn/moving_mean" not in moved(model)


def test_batch_norm_inside_other_layers_is_found():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="conv")(inputs)
    x = layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="wrapped")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    set_trainable(layer_groups(model), "all")
    assert owners(moved(model)) == {"conv", "logits"}


# --- Dropout of frozen parts ---


def noisy_model():
    """Two blocks with everything that drops or adds noise."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((5, 4))
    for i in (1, 2):
        x = layers.Dense(4, name=f"block{i}_dense")(x)
        x = layers.SpatialDropout1D(0.4, name=f"block{i}_spatial")(x)
        x = layers.GaussianNoise(0.5, name=f"block{i}_noise")(x)
        x = layers.GaussianDropout(0.3, name=f"block{i}_gaussian")(x)
        x = layers.AlphaDropout(0.3, name=f"block{i}_alpha")(x)
        x = layers.MultiHeadAttention(2, 2, dropout=0.5, name=f"block{i}_mha")(x, x)
        rates = {"dropout": 0.4, "recurrent_dropout": 0.3, "return_sequences": True}
        x = layers.LSTM(4, name=f"block{i}_lstm", **rates)(x)
        x = layers.Bidirectional(layers.GRU(2, **rates), name=f"block{i}_gru")(x)
        x = layers.Dropout(0.5, name=f"block{i}_drop")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.Dropout(0.5, name="head_drop")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def rates(model):
    names = ("rate", "stddev", "dropout", "recurrent_dropout")
    found = model._flatten_layers()
    return [(x.name, n, getattr(x, n)) for x in found for n in names if hasattr(x, n)]


def test_frozen_blocks_run_without_dropout_and_open_ones_with():
    model = noisy_model()
    groups = layer_groups(model)
    assert groups.names == ["block1", "block2"]
    first = keras.Model(model.input, model.get_layer("block1_drop").output)
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    before = rates(model)
    set_trainable(groups, "last:1")
    with frozen_dropout_off(groups):
        np.testing.assert_array_equal(first(x, training=True), first(x, training=False))
        for layer in groups.blocks[1]:
            if layer.name.endswith(("drop", "noise", "spatial", "gaussian", "alpha")):
                ones = np.ones((1, 50, 4), "float32")
                assert not np.array_equal(layer(ones, training=True), ones), layer.name
        assert model.get_layer("block2_mha").get_config()["dropout"] == 0.5
        assert model.get_layer("block2_lstm").cell.dropout == 0.4
        assert model.get_layer("head_drop").rate == 0.5
    assert rates(model) == before
    assert not np.array_equal(first(x, training=True), first(x, training=False))


def test_dropout_stays_where_anything_trains():
    model = noisy_model()
    groups = layer_groups(model)
    set_trainable(groups, "bias")
    before = rates(model)
    with frozen_dropout_off(groups):
        assert rates(model) == before


def test_dropout_comes_back_after_an_error():
    model = noisy_model()
    groups = layer_groups(model)
    set_trainable(groups, "head")
    before = rates(model)

    def stopped():
        with frozen_dropout_off(groups):
            assert model.get_layer("block2_drop").rate == 0
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert rates(model) == before


def test_noise_before_frozen_layers_is_augmentation_and_stays():
    inputs = keras.Input((5,))
    x = layers.GaussianNoise(0.5, name="augment")(inputs)
    x = layers.Dense(4, name="body")(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    groups = layer_groups(model)
    set_trainable(groups, "head")
    with frozen_dropout_off(groups):
        assert model.get_layer("augment").stddev == 0.5


def test_frozen_dropout_is_off_in_a_fit():
    model = conv_model(drop=0.9)
    reference = conv_model(drop=0.0)
    reference.set_weights(model.get_weights())
    for each in (model, reference):
        groups = layer_groups(each)
        set_trainable(groups, "head")
        with frozen_dropout_off(groups):
            fit(each)
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, values(reference)[path], err_msg=path)


# --- Mistakes and counts ---


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("last:4", r'"last:4", but the backbone has 3 blocks; set last:3 .* transformer_layer_0, '),
        ("from:transformer_layer_9", r'Did you mean "transformer_layer_\d"\? Blocks: transf'),
        ("re:transfromer", r'"re:transfromer" matches none of the .* such as .*embedding.*/'),
        ("tail", r'train is "tail"; allowed: head, all, last:K'),
        ("last:x", r'train is "last:x"; allowed: head, all, last:K'),
        ("re:(", r'train is "re:\(", which is no regular expression'),
    ],
)
def test_a_selection_of_nothing_is_refused_and_changes_nothing(task, groups, train, message):
    set_trainable(groups, "last:1")
    before = flags(task.network)
    with pytest.raises(UserError, match=message):
        set_trainable(groups, train)
    assert flags(task.network) == before


def test_a_name_that_two_layers_have_is_refused():
    towers = [keras.Sequential([keras.Input((3,)), layers.Dense(2, name="same")]) for _ in "ab"]
    inputs = keras.Input((3,))
    x = layers.Concatenate()([tower(inputs) for tower in towers])
    groups = layer_groups(keras.Model(inputs, layers.Dense(2)(x)))
    with pytest.raises(UserError, match=r'"from:same", but 2 have that name; choose another'):
        set_trainable(groups, "from:same")


def test_head_of_a_backbone_alone_is_refused(task):
    with pytest.raises(UserError, match="has no head: all of it counts as backbone"):
        set_trainable(layer_groups(task.backbone), "head")


def test_norm_without_any_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    with pytest.raises(UserError, match=r'"norm" selects nothing in the backbone, which has bias,'):
        set_trainable(layer_groups(model), "norm")


def test_norm_that_the_policy_keeps_frozen_is_refused():
    with pytest.raises(UserError, match=r"only BatchNormalization, .* set batch_norm to affine or"):
        set_trainable(layer_groups(conv_model()), "norm")


def test_unknown_policy_is_refused(groups):
    with pytest.raises(UserError, match=r'batch_norm is "frozen"; .* Did you mean "freeze"'):
        set_trainable(groups, "all", "frozen")


def test_counts(task, groups):
    set_trainable(groups, "head")
    trainable, total = count_parameters(task.network)
    assert trainable == 16 * 2 + 2
    assert total == sum(v.numpy().size for v in task.network.weights)
