"""Recipes for pictures: what they read is laid out as they expect, on small stand-ins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.pictures import picture
from tf_finetune.data.pictures.recognise import is_images
from tf_finetune.data.prepare import prepare
from tf_finetune.errors import UserError
from tf_finetune.model.image_backbones import is_for_pictures
from tf_finetune.recipe import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = [ROOT / "configs" / f"{name}.py" for name in ("emoji", "tf_flowers", "oxford_iiit_pet")]
FLOWERS = ["dandelion", "daisy", "tulips", "sunflowers", "roses"]
PETS = ["Abyssinian", "beagle"]


class TfFlowers(tfds.core.GeneratorBasedBuilder):
    """With the features and the one split of the real one."""

    VERSION = tfds.core.Version("3.0.1")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=FLOWERS),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for kind, name in enumerate(FLOWERS):
            for i in range(10):
                yield f"{name}-{i}", {"image": np.asarray(picture(kind, i)), "label": name}


class OxfordIiitPet(tfds.core.GeneratorBasedBuilder):
    """With the features and splits of the real one, whose masks are pictures too."""

    VERSION = tfds.core.Version("4.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=PETS),
            "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
            "file_name": tfds.features.Text(),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0), "test": self._generate_examples(100)}

    def _generate_examples(self, first):
        for kind, name in enumerate(PETS):
            for i in range(first, first + 10):
                file = f"{name}_{i}.jpg"
                mask = np.ones((40, 48, 1), np.uint8)
                yield (
                    file,
                    {
                        "image": np.asarray(picture(kind, i)),
                        "label": name,
                        "species": kind,
                        "file_name": file,
                        "segmentation_mask": mask,
                    },
                )


def package_of_emoji(folder):
    """As the npm package: a list, and a picture of each."""
    images = folder / "package" / "img" / "google" / "64"
    images.mkdir(parents=True)
    entries = []
    for kind, category in enumerate(("Flags", "Food & Drink", "Component")):
        for i in range(12):
            entries.append({"image": f"{kind}-{i}.png", "category": category})
            if i < 10:  # Google has not drawn them all
                picture(kind, i, (64, 64)).convert("RGBA").save(images / f"{kind}-{i}.png")
    (folder / "package" / "emoji.json").write_text(json.dumps(entries))
    return folder / "package"


def lay_out(*arguments):
    script = ROOT / "examples" / "write_pictures.py"
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def test_the_emoji_of_a_package_become_folders_by_category(tmp_path):
    package, folder = package_of_emoji(tmp_path), tmp_path / "pictures" / "emoji"
    assert lay_out("emoji", folder, "--source", package) == "20 pictures\n"
    assert sorted(path.name for path in folder.iterdir()) == ["flags", "food-drink"]
    assert "is there" in lay_out("emoji", folder, "--source", package)
    config = load_recipe(RECIPES[0])
    config.data.path = str(folder)
    prepared = prepare(config, tmp_path)
    assert prepared.class_names == ("flags", "food-drink")
    assert sum(map(len, prepared.splits.values())) == 20


@pytest.mark.parametrize(
    ("recipe", "builder"), [(RECIPES[1], TfFlowers), (RECIPES[2], OxfordIiitPet)]
)
def test_a_prepared_data_set_is_read(recipe, builder, tmp_path):
    config = load_recipe(recipe)
    config.data.tfds_dir = str(tmp_path / "tfds")
    # What the recipe's first line does, where there is a network.
    with pytest.raises(UserError, match=rf"tfds\.load\('{recipe.stem}', data_dir="):
        prepare(config, tmp_path)
    builder(data_dir=config.data.tfds_dir).download_and_prepare()
    assert config.data.tfds == recipe.stem
    assert is_images(config.data, None)
    prepared = prepare(config, tmp_path)
    sizes = {name: len(rows) for name, rows in prepared.splits.items()}
    if recipe.stem == "tf_flowers":
        assert set(prepared.class_names) == set(FLOWERS)
        assert sizes == {"train": 40, "validation": 5, "test": 5}
    else:
        assert set(prepared.class_names) == set(PETS)
        assert sizes == {"train": 18, "validation": 2, "test": 20}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_each_names_a_model_of_pictures_and_what_brings_the_data(file):
    config, text = load_recipe(file), file.read_text()
    assert is_for_pictures(config.model.preset)
    assert "npm pack emoji-" in text or f"tfds.load('{config.data.tfds}')" in text
