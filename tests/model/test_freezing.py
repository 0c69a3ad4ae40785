import pytest

from tests.tiny import tiny_task
from tf_finetune.errors import UserError
from tf_finetune.model.freezing import count_parameters, layer_groups, set_trainable


@pytest.fixture(scope="module")
def task():
    return tiny_task()


@pytest.fixture(scope="module")
def groups(task):
    return layer_groups(task.network, task.backbone)


def names(layers):
    return [layer.name for layer in layers]


def test_groups_are_stem_blocks_and_head(groups):
    assert "token_embedding" in names(groups.stem)
    assert [names(b) for b in groups.blocks] == [[f"transformer_layer_{i}"] for i in range(3)]
    assert names(groups.head) == ["pooling", "head_dropout", "logits"]


@pytest.mark.parametrize(
    ("train", "opened"),
    [("head", []), ("last:1", [2]), ("last:2", [1, 2]), ("last:3", [0, 1, 2]), ("all", "stem")],
)
def test_selection(task, groups, train, opened):
    set_trainable(groups, train)
    paths = {v.path.split("/")[0] for v in task.network.trainable_weights}
    expected = {"logits"} | {
        f"transformer_layer_{i}" for i in (opened if opened != "stem" else range(3))
    }
    if opened == "stem":
        expected |= {"token_embedding", "position_embedding", "segment_embedding"}
        expected |= {"embeddings_layer_norm"}
    assert paths == expected


def test_counts(task, groups):
    set_trainable(groups, "head")
    trainable, total = count_parameters(task.network)
    assert trainable == 16 * 2 + 2
    assert total == sum(v.numpy().size for v in task.network.weights)


def test_more_blocks_than_there_are(groups):
    with pytest.raises(UserError, match="has 3 blocks"):
        set_trainable(groups, "last:4")
