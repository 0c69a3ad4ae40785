import numpy as np
import pytest
from PIL import Image

from tests.pictures import arrays_of_pictures
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pictures import augment
from tf_finetune.data.pictures.augment import STRENGTHS, PictureNoise, picture_noise
from tf_finetune.data.pipeline import training_dataset
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

IMAGES, LABELS = arrays_of_pictures(4, 8, (32, 24))


def noise(name="medium", flip=False):
    return picture_noise(DataConfig(augment=name, flip=flip))


def generator(*seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", ["light", "medium", "strong"])
def test_pixels_follow_from_the_seed_alone(name):
    before = IMAGES.copy()
    one = noise(name)(IMAGES, generator(0, 1, 2))
    assert one.shape == IMAGES.shape
    assert one.dtype == np.uint8
    assert np.array_equal(noise(name)(IMAGES, generator(0, 1, 2)), one)
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not np.array_equal(noise(name)(IMAGES, generator(*other)), one)
    assert np.array_equal(IMAGES, before)


def test_each_picture_is_changed_in_its_own_way():
    same = np.repeat(IMAGES[:1], 20, axis=0)
    changed = noise("medium")(same, generator(0))
    assert len(np.unique(changed.reshape(20, -1), axis=0)) == 20


def test_stronger_means_further_from_the_picture():
    distances = [
        np.mean([np.abs(noise(name)(IMAGES, generator(i)) - IMAGES.astype(int)) for i in range(4)])
        for name in ("light", "medium", "strong")
    ]
    assert 1 < distances[0] < distances[1] < distances[2]


def test_flips_alone_mirror_about_half_of_the_pictures():
    assert noise("none") is None
    changed = noise("none", flip=True)(IMAGES, generator(0))
    kept = (changed == IMAGES).all(axis=(1, 2, 3))
    mirrored = (changed == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert 6 < mirrored.sum() < 26


def test_nothing_is_mirrored_unless_asked():
    """Left is dark and right is bright, whatever else is done to them."""
    pixels = np.zeros((200, 24, 32, 3), np.uint8)
    pixels[:, :, 16:] = 200
    pixels[:, :, :16] = 50

    def brighter_on_the_left(name, flip):
        changed = noise(name, flip)(pixels, generator(0)).astype(int)
        return int(
            (changed[:, 6:18, 4:10].mean((1, 2, 3)) > changed[:, 6:18, 22:28].mean((1, 2, 3))).sum()
        )

    for name in ("light", "medium"):
        assert brighter_on_the_left(name, False) < 5
        assert brighter_on_the_left(name, True) > 60


@pytest.mark.parametrize("name", list(augment._OPERATIONS))
def test_every_operation_does_something_in_moderation(name):
    image = Image.fromarray(IMAGES[3])
    change = augment._OPERATIONS[name]
    small, large = (np.asarray(change(image, m)).astype(int) for m in (0.1, 1.0))
    assert small.shape == large.shape == IMAGES[3].shape
    if name == "identity":
        assert np.array_equal(large, IMAGES[3])
        return
    assert np.abs(large - IMAGES[3]).mean() > 1
    assert np.abs(small - IMAGES[3]).mean() <= np.abs(large - IMAGES[3]).mean()


def test_shears_leave_the_middle_where_it_is():
    pixels = np.zeros((33, 33, 3), np.uint8)
    pixels[16, 16] = 255
    for name in ("shear x", "shear y", "rotate"):
        changed = np.asarray(augment._OPERATIONS[name](Image.fromarray(pixels), 1.0))
        assert changed[15:18, 15:18].max() > 120
    shifted = np.asarray(augment._OPERATIONS["shift x"](Image.fromarray(pixels), 0.1))
    assert shifted[16, 14:16].max() > 120


def test_erasing_overwrites_a_part():
    erased = [IMAGES[0].copy() for _ in range(20)]
    for i, one in enumerate(erased):
        augment._erase(one, generator(i))
    shares = [(one != IMAGES[0]).any(axis=2).mean() for one in erased]
    assert 0.01 < min(shares) < max(shares) < 0.4


class Kept:
    lengths = np.ones(len(IMAGES), np.int64)

    def batch(self, rows):
        return IMAGES[rows]


def test_a_run_that_goes_on_sees_the_same_pixels():
    options = {"batch_size": 5, "seed": 3, "noise": noise("strong", flip=True)}
    rows = np.arange(len(IMAGES))
    whole = [x.numpy() for x, _ in training_dataset(Kept(), LABELS, rows, **options).take(12)]
    later = training_dataset(Kept(), LABELS, rows, **options, first_epoch=1, first_batch=2)
    for one, (other, _) in zip(whole[9:], later.take(3), strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(whole[0], whole[7])


def test_an_empty_batch():
    assert noise()(IMAGES[:0], generator(0)).shape == (0, 24, 32, 3)


def test_unchanged_by_no_strength_at_all():
    assert np.array_equal(PictureNoise(STRENGTHS["none"], False)(IMAGES, generator(0)), IMAGES)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("augment", "mild", 'config.data.augment is "mild"; allowed: none, light, medium, strong'),
        ("flip", "yes", "config.data.flip is 'yes'; it must be true or false"),
    ],
)
def test_wrong_settings_are_named(field, value, message):
    config = FineTuneConfig()
    setattr(config.data, field, value)
    with pytest.raises(UserError, match=message):
        config.validate()


def test_changes_that_no_phase_would_see_are_refused():
    for field, value in (("augment", "light"), ("flip", True)):
        config = FineTuneConfig(phases="probe")
        setattr(config.data, field, value)
        with pytest.raises(UserError, match=rf"data.{field} changes the training pictures, but"):
            config.validate()
        config.fit.cache = False
        config.validate()
