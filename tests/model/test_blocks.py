"""Families of models are divided where their papers divide them."""

import re

import keras
import keras_hub
import numpy as np
import pytest

from tests.tiny import tiny_backbone, tiny_task
from tf_finetune.errors import UserError
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable

layers = keras.layers
hub = keras_hub.models


def application(name, size=32, top=True):
    options = {"classes": 3} if top else {}
    build = getattr(keras.applications, name)
    return build(weights=None, include_top=top, input_shape=(size, size, 3), **options)


def under_sequential(backbone):
    return keras.Sequential(
        [backbone, layers.GlobalAveragePooling2D(), layers.Dense(3, name="logits")]
    )


TEXT = {
    "vocabulary_size": 50,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 16,
}


def gemma():
    sizes = {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "hidden_dim": 8}
    return hub.GemmaBackbone(vocabulary_size=50, num_layers=3, intermediate_dim=16, **sizes)


def vit():
    sizes = {"num_layers": 3, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    return hub.ViTBackbone(image_shape=(16, 16, 3), patch_size=4, **sizes)


def mit():
    return hub.MiTBackbone(
        layerwise_depths=[2, 2],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[8, 16],
    )


def hub_resnet():
    return hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[2, 3],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )


def hub_efficientnet():
    return hub.EfficientNetBackbone(
        stackwise_width_coefficients=[0.5] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[2, 1, 2],
        stackwise_input_filters=[32, 16, 24],
        stackwise_output_filters=[16, 24, 40],
        stackwise_expansion_ratios=[1, 6, 6],
        stackwise_strides=[1, 2, 2],
        stackwise_squeeze_and_excite_ratios=[0.25] * 3,
        stackwise_block_types=["fused", "unfused", "unfused"],
        image_shape=(32, 32, 3),
    )


def encoder_decoder():
    sizes = {key: value for key, value in TEXT.items() if key != "max_sequence_length"}
    lengths = {"max_encoder_sequence_length": 16, "max_decoder_sequence_length": 8}
    return hub.WhisperBackbone(**sizes, **lengths, num_mels=8)


def image_classifier():
    return hub.ViTImageClassifier(vit(), num_classes=3)


# A name: the model, how many blocks, the first and last of them, the layers of the head.
FAMILIES = {
    "ResNet50": (lambda: application("ResNet50"), 16, "conv2_block1 conv5_block3", "predictions"),
    "ResNet50V2, no head": (
        lambda: application("ResNet50V2", top=False),
        16,
        "conv2_block1 conv5_block3",
        "",
    ),
    "DenseNet121": (
        lambda: application("DenseNet121"),
        6 + 12 + 24 + 16,
        "conv2_block1 conv5_block16",
        "predictions",
    ),
    "EfficientNetB0": (lambda: application("EfficientNetB0"), 16, "block1a block7a", "predictions"),
    "EfficientNetV2B0, no head": (
        lambda: application("EfficientNetV2B0", top=False),
        21,
        "block1a block6h",
        "",
    ),
    # A depthwise and a pointwise convolution each stand alone.
    "MobileNet": (lambda: application("MobileNet"), 1 + 2 * 13, "conv1 conv_pw_13", "conv_preds"),
    # Of both the first block has no number and counts to the stem.
    "MobileNetV2": (lambda: application("MobileNetV2"), 16, "block_1 block_16", "predictions"),
    "MobileNetV3Small": (
        lambda: application("MobileNetV3Small"),
        10,
        "expanded_conv_1 expanded_conv_10",
        "conv_2 logits",
    ),
    "VGG16": (lambda: application("VGG16"), 5, "block1 block5", "fc1 fc2 predictions"),
    "VGG16, no head": (lambda: application("VGG16", top=False), 5, "block1 block5", ""),
    "Xception": (lambda: application("Xception", 71), 14, "block1 block14", "predictions"),
    "InceptionV3": (lambda: application("InceptionV3", 75), 11, "mixed0 mixed10", "predictions"),
    "ConvNeXtTiny": (
        lambda: application("ConvNeXtTiny"),
        3 + 3 + 9 + 3,
        "convnext_tiny_stage_0_block_0 convnext_tiny_stage_3_block_2",
        "convnext_tiny_head_layernorm convnext_tiny_head_dense",
    ),
    "ConvNeXtTiny, nested": (
        lambda: under_sequential(application("ConvNeXtTiny", top=False)),
        18,
        "convnext_tiny_stage_0_block_0 convnext_tiny_stage_3_block_2",
        "logits",
    ),
    "BERT": (
        lambda: hub.BertBackbone(**TEXT),
        3,
        "transformer_layer_0 transformer_layer_2",
        "",
    ),
    "BERT classifier": (
        lambda: hub.BertTextClassifier(hub.BertBackbone(**TEXT), 2),
        3,
        "transformer_layer_0 transformer_layer_2",
        "logits",
    ),
    "BERT masked words": (
        lambda: hub.BertMaskedLM(hub.BertBackbone(**TEXT)),
        3,
        "transformer_layer_0 transformer_layer_2",
        "mlm_head",
    ),
    "RoBERTa classifier": (
        lambda: hub.RobertaTextClassifier(hub.RobertaBackbone(**TEXT), 2),
        3,
        "transformer_layer_0 transformer_layer_2",
        "pooled_dense logits",
    ),
    "DistilBERT": (
        lambda: hub.DistilBertBackbone(**TEXT),
        3,
        "transformer_layer_0 transformer_layer_2",
        "",
    ),
    # One layer, called three times.
    "ALBERT": (
        lambda: hub.AlbertBackbone(**TEXT, embedding_dim=4),
        1,
        "group_0_inner_layer_0 group_0_inner_layer_0",
        "",
    ),
    "DeBERTa v3": (
        lambda: hub.DebertaV3Backbone(**TEXT, bucket_size=4),
        3,
        "disentangled_attention_encoder_layer_0 disentangled_attention_encoder_layer_2",
        "",
    ),
    "GPT-2 language model": (
        lambda: hub.GPT2CausalLM(hub.GPT2Backbone(**TEXT)),
        3,
        "transformer_layer_0 transformer_layer_2",
        "",  # its output is the token embedding
    ),
    "Gemma": (gemma, 3, "decoder_block_0 decoder_block_2", ""),
    "Whisper": (
        encoder_decoder,
        3 + 3,
        "transformer_encoder_layer_0 transformer_decoder_layer_2",
        "",
    ),
    "ViT": (vit, 3, "transformer_block_1 transformer_block_3", ""),
    "ViT classifier": (
        image_classifier,
        3,
        "transformer_block_1 transformer_block_3",
        "predictions",
    ),
    "MiT": (mit, 4, ".*_0_0 .*_1_1", ""),
    "ResNet of KerasHub": (hub_resnet, 5, "stack0_block0 stack1_block2", ""),
    "EfficientNet of KerasHub": (hub_efficientnet, 5, "block1a_ block3b_", ""),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    build, *expected = FAMILIES[request.param]
    model = build()
    yield model, layer_groups(model), *expected
    keras.backend.clear_session()


def weighted(group):
    return [layer.name for layer in group if layer.weights]


def test_blocks_and_head_of_a_family(family):
    _, groups, blocks, ends, head = family
    assert len(groups.blocks) == len(groups.names) == blocks
    assert re.fullmatch(ends, f"{groups.names[0]} {groups.names[-1]}")
    assert " ".join(weighted(groups.head)) == head
    assert all(weighted(block) for block in groups.blocks)


def test_each_layer_and_weight_stands_in_one_group(family):
    model, groups, *_ = family
    found = [id(layer) for part in groups.parts for layer in part]
    assert len(found) == len(set(found))
    weights = [id(v) for part in groups.weights() for v in part]
    assert len(weights) == len(set(weights))
    assert set(weights) == {id(v) for v in model.weights}
    # None but tied weights stand in two layers, and none in no layer.
    held = {id(v) for part in groups.parts for layer in part for v in layer.weights}
    assert held == set(weights)


def graphs(layer):
    for x in (layer, *layer._flatten_layers(include_self=False)):
        graph = x._functional if isinstance(x, keras.Sequential) else x
        if hasattr(graph, "_nodes_by_depth"):
            yield graph


def test_groups_stand_in_the_order_that_data_flow(family):
    model, groups, *_ = family
    place = {id(x): i for i, part in enumerate(groups.parts) for x in part}
    called, checked = set(), 0
    # The nested graphs first: the model may call their layers again, as tied embeddings.
    for graph in reversed(list(graphs(model))):
        reached = {}  # by call: the last group that its data have passed
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                before = max((reached.get(parent, 0) for parent in node.parent_nodes), default=0)
                own = places(node.operation, place)
                if own and node.operation not in called:
                    assert own[0] >= before, node.operation.name
                    checked += 1
                called.add(node.operation)
                reached[node] = max([before, *own])
    assert checked > 1


def places(layer, place):
    """The groups of a layer; of one that was opened, those of the layers in it."""
    if id(layer) in place or not isinstance(layer, layers.Layer):
        return [place[id(layer)]] if id(layer) in place else []
    return sorted(place[id(x)] for x in layer._flatten_layers() if id(x) in place)


def test_last_blocks_open_strictly_growing_sets(family):
    model, groups, blocks, *_ = family
    before = set()
    for k in range(1, blocks + 1):
        set_trainable(groups, f"last:{k}", "update")
        opened = {id(v) for v in model.trainable_weights}
        assert before < opened
        before = opened
    set_trainable(groups, "all", "update")
    assert before <= {id(v) for v in model.trainable_weights}
    assert not [v.path for v in model.trainable_weights if "moving" in v.name]


def opened(model, groups, train, batch_norm="update"):
    set_trainable(groups, train, batch_norm)
    return {id(v): v.path for v in model.trainable_weights}


def test_each_selection_in_a_family(family):
    model, groups, blocks, _, head = family
    everything = opened(model, groups, "all")
    assert opened(model, groups, "re:.") == everything
    # From the first block on is all but the stem, as the last of all blocks are.
    assert opened(model, groups, f"from:{groups.names[0]}") == opened(
        model, groups, f"last:{blocks}"
    )
    own = {id(v) for v in groups.weights()[-1]}
    if head:
        assert set(opened(model, groups, "head")) == own & set(everything)
    else:
        with pytest.raises(UserError, match="has no head"):
            set_trainable(groups, "head")
    for train, names in (("norm", r"gamma|beta|scale"), ("bias", r"(.*_)?(bias|beta)")):
        wanted = {i for i, path in everything.items() if re.fullmatch(names, path.split("/")[-1])}
        if wanted - own:
            assert set(opened(model, groups, train)) == wanted | own & set(everything), train
        else:
            with pytest.raises(UserError, match="selects nothing in the backbone"):
                set_trainable(groups, train)


def test_the_policy_of_batch_normalization_in_a_family(family):
    model, groups, *_ = family
    body = {id(v) for part in groups.weights()[:-1] for v in part}
    found = [x for x in model._flatten_layers() if isinstance(x, layers.BatchNormalization)]
    norms = [x for x in found if body & set(map(id, x.weights))]
    affine = {id(v) for x in norms for v in (x.gamma, x.beta) if v is not None}
    everything = set(opened(model, groups, "all"))
    assert affine <= everything
    assert all(x.trainable for x in norms)  # and so normalises by the batch
    for policy, closed in (("freeze", affine), ("affine", set())):
        assert set(opened(model, groups, "all", policy)) == everything - closed
        assert not any(x.trainable for x in norms)


# Other ways to build a model.


def residual(x, filters=4):
    y = layers.Conv2D(filters, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    return x + layers.Conv2D(filters, 3, padding="same")(y)


def test_a_graph_without_telling_names_is_divided_where_paths_join():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    for _ in range(3):
        x = layers.ReLU()(residual(x))
    x = layers.Dense(5, name="hidden")(keras.ops.mean(x, axis=(1, 2)))
    groups = layer_groups(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
    assert weighted(groups.stem) == ["stem"]
    kinds = [[type(layer).__name__ for layer in block] for block in groups.blocks]
    assert kinds == [["Conv2D", "BatchNormalization", "ReLU", "Conv2D", "ReLU"]] * 3
    assert weighted(groups.head) == ["hidden", "logits"]


def test_a_plain_stack_is_divided_at_each_kernel():
    model = keras.Sequential(
        [
            keras.Input((3, 2)),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="a"),
            layers.LayerNormalization(name="a_norm"),
            layers.Dense(4, name="b"),
            layers.ReLU(name="b_relu"),
            layers.Dense(2, name="logits"),
            layers.Softmax(name="softmax"),
        ]
    )
    groups = layer_groups(model)
    named = [[layer.name for layer in part] for part in groups.parts]
    assert named == [["flat"], ["a", "a_norm"], ["b", "b_relu"], ["logits", "softmax"]]
    assert groups.names == ["a", "b"]


@pytest.mark.parametrize("named", [True, False])
def test_a_transformer_written_out_in_plain_layers(named):
    inputs = x = keras.Input((5, 4))
    for i in range(2):
        name = (lambda part, i=i: f"step_{i}_{part}") if named else (lambda part: None)
        y = layers.LayerNormalization(name=name("norm"))(x)
        x = x + layers.MultiHeadAttention(2, 4, name=name("attention"))(y, y)
        y = layers.LayerNormalization(name=name("norm_2"))(x)
        x = x + layers.Dense(4, name=name("dense"))(y)
    x = layers.GlobalAveragePooling1D()(x)
    groups = layer_groups(keras.Model(inputs, layers.Dense(2)(x)))
    kinds = [[type(layer).__name__ for layer in block] for block in groups.blocks]
    halves = [["LayerNormalization", "MultiHeadAttention"], ["LayerNormalization", "Dense"]] * 2
    assert kinds == ([halves[0] + halves[1]] * 2 if named else halves)


def test_recurrent_layers_are_blocks():
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(50, 4, mask_zero=True, name="table")(ids)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="first")(x)
    x = layers.Bidirectional(layers.LSTM(3), name="second")(x)
    groups = layer_groups(keras.Model(ids, layers.Dense(2, name="logits")(x)))
    assert [weighted(part) for part in groups.parts] == [
        ["table"],
        ["first"],
        ["second"],
        ["logits"],
    ]


def stage(filters):
    return keras.Sequential([layers.Conv2D(filters, 3), layers.BatchNormalization()])


def test_nested_stages_are_blocks_even_if_the_last_is_by_far_the_largest():
    head = [layers.GlobalMaxPooling2D(), layers.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((9, 9, 3)), stage(2), stage(8), stage(64), *head])
    groups = layer_groups(model)
    assert [len(weighted(block)) for block in groups.blocks] == [2, 2, 2]
    assert groups.stem == []
    assert weighted(groups.head) == ["logits"]


def small_backbone(name="base"):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    for i in range(2):
        x = layers.Conv2D(8, 1, name=f"block{i}_a")(x)
        x = layers.Conv2D(4, 1, name=f"block{i}_b")(x)
    return keras.Model(inputs, x, name=name)


def wrapped(model, **inputs):
    taken = keras.Input(**inputs)
    return keras.Model(taken, layers.Softmax()(model(taken)))


@pytest.mark.parametrize("given", [False, True])
def test_a_backbone_nested_twice_is_found(given):
    backbone = small_backbone()
    head = [layers.GlobalAveragePooling2D(), layers.Dense(2, name="logits")]
    classifier = keras.Sequential([layers.Rescaling(2.0, name="scale"), backbone, *head])
    model = wrapped(wrapped(classifier, shape=(8, 8, 3)), shape=(8, 8, 3))
    groups = layer_groups(model, backbone if given else None)
    assert [layer.name for layer in groups.stem] == ["scale", "conv"]
    assert groups.names == ["block0", "block1"]
    assert weighted(groups.head) == ["logits"]
    assert layer_groups(model, "base").names == groups.names


def test_a_head_larger_than_the_backbone_is_still_the_head():
    head = [layers.Flatten(), layers.Dense(200, name="wide"), layers.Dense(2, name="logits")]
    model = keras.Sequential([small_backbone(), keras.Sequential(head)])
    groups = layer_groups(model)
    assert groups.names == ["block0", "block1"]
    assert weighted(groups.head) == ["wide", "logits"]


def test_a_branch_beside_the_backbone_counts_to_the_head():
    backbone, table = small_backbone(), keras.Input((4,))
    x = layers.GlobalAveragePooling2D()(backbone(backbone.input))
    y = table
    for i in range(4):
        y = layers.Dense(3, name=f"table_{i}")(y)
    outputs = layers.Dense(2, name="logits")(layers.Concatenate()([x, y]))
    groups = layer_groups(keras.Model([backbone.input, table], outputs), backbone)
    assert groups.names == ["block0", "block1"]
    assert set(weighted(groups.head)) == {"logits", *(f"table_{i}" for i in range(4))}


def test_a_backbone_that_shares_its_layers_with_a_flat_model():
    backbone = small_backbone()
    x = layers.Conv2D(3, 1, name="map")(backbone.output)
    groups = layer_groups(keras.Model(backbone.input, x), backbone)
    assert groups.names == ["block0", "block1"]
    assert weighted(groups.head) == ["map"]


def test_frames_of_a_video_go_through_a_nested_backbone():
    video = keras.Input((3, 8, 8, 3))
    backbone = small_backbone()
    frames = keras.Sequential([backbone, layers.GlobalAveragePooling2D()])
    x = layers.LSTM(2, name="time")(layers.TimeDistributed(frames)(video))
    groups = layer_groups(keras.Model(video, layers.Dense(2, name="logits")(x)), backbone)
    assert groups.names == ["block0", "block1"]
    assert weighted(groups.head) == ["time", "logits"]


def test_our_own_task():
    task = tiny_task()
    for groups in (layer_groups(task.network, task.backbone), layer_groups(task)):
        names = [f"transformer_layer_{i}" for i in range(3)]
        assert groups.names == names
        assert [weighted(block)[:1] for block in groups.blocks] == [[name] for name in names]
        assert weighted(groups.head) == ["logits"]
        assert "pooling" in [layer.name for layer in groups.head]
        assert "token_embedding" in weighted(groups.stem)


# Subclassed models.


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.dense = layers.LayerNormalization(), layers.Dense(4)

    def build(self, shape):
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(self.norm(x))


class Encoder(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = [Block(name=f"step_{i}") for i in range(3)]
        self.last = layers.LayerNormalization(name="last")

    def build(self, shape):
        self.start = self.add_weight(shape=(4,), name="start")
        for layer in (*self.steps, self.last):
            layer.build(shape)

    def call(self, x):
        x = x + self.start
        for step in self.steps:
            x = step(x)
        return self.last(x)


class Classifier(keras.Model):
    def __init__(self, eager=False, **kwargs):
        super().__init__(**kwargs)
        self.eager = eager
        self.logits = layers.Dense(2, name="logits")
        self.encoder = Encoder(name="encoder")
        self.embed = layers.Dense(4, name="embed")

    def call(self, x):
        if self.eager:
            x = x * float(keras.ops.convert_to_numpy(x).max())
        return self.logits(self.encoder(self.embed(x)))


def test_a_subclassed_model_is_taken_in_the_order_of_its_calls():
    model = Classifier()
    model(np.zeros((1, 4)))
    groups = layer_groups(model)
    assert weighted(groups.stem) == ["embed"]
    assert groups.names == ["step_0", "step_1", "step_2"]
    assert weighted(groups.blocks[2]) == ["step_2", "last"]
    assert weighted(groups.head) == ["logits"]
    # What a layer that was opened holds itself counts to the stem.
    assert [v.name for v in groups.weights()[0]] == ["kernel", "bias", "start"]
    set_trainable(groups, "last:3")
    assert not model.encoder.start.trainable
    set_trainable(groups, "all")
    assert len(model.trainable_weights) == len(model.weights)
    # It was followed, and is as it was.
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_a_subclassed_model_that_cannot_be_followed_is_taken_in_the_order_of_creation():
    model = Classifier(eager=True)
    model(np.zeros((1, 4)))
    with pytest.warns(UserWarning, match="order of their creation: logits, encoder, embed"):
        groups = layer_groups(model, "encoder")
    assert weighted(groups.stem) == ["logits"]
    assert groups.names == ["step_0", "step_1", "step_2"]
    assert weighted(groups.head) == ["embed"]


def test_the_backbone_of_a_subclassed_model_can_be_named():
    model = Classifier()
    model(np.zeros((1, 4)))
    groups = layer_groups(model, "encoder")
    assert groups.names == ["step_0", "step_1", "step_2"]
    assert weighted(groups.stem) == ["embed"]


class Bare(keras.Model):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 2))

    def call(self, x):
        return x @ self.kernel


# Mistakes.


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r'"unbuilt" has no weights yet; call it once on a batch'):
        layer_groups(keras.Sequential([layers.Dense(2)], name="unbuilt"))
    bare = Bare(name="bare")
    bare.build((None, 3))
    with pytest.raises(UserError, match=r'"bare" holds its weights outside of layers'):
        layer_groups(bare)
    with pytest.raises(UserError, match=r"model is a Dense; it must be a keras.Model"):
        layer_groups(layers.Dense(2))


def test_a_backbone_that_is_not_in_the_model_is_refused():
    model = under_sequential(small_backbone())
    with pytest.raises(UserError, match=r'"bse", but .* Models in it: base. Did you mean "base"'):
        layer_groups(model, "bse")
    with pytest.raises(UserError, match=r"backbone is .*bert.* holds no layer with weights"):
        layer_groups(model, tiny_backbone())
    with pytest.raises(UserError, match=r"backbone is a list"):
        layer_groups(model, [])
