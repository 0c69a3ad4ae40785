"""Recipe files: what is wrong with one is said with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tf_finetune.errors import UserError
from tf_finetune.recipe import load_recipe

HEAD = "from tf_finetune import FineTuneConfig, Phase\n\ndef get_config():\n"


def recipe(folder: Path, text: str, name: str = "recipe.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_recipe_may_be_edited_and_loaded_again(tmp_path: Path) -> None:
    file = recipe(tmp_path, HEAD + "    return FineTuneConfig(phases='full')\n")
    assert load_recipe(file).phases == "full"
    recipe(tmp_path, HEAD + "    return FineTuneConfig(phases='prob')\n")  # as long, at once
    assert load_recipe(str(file)).phases == "prob"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.py"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "line 1: SyntaxError: "),
        ("import tf_finetun\n", "line 1: ModuleNotFoundError: No module named 'tf_finetun'"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        (HEAD + "    return FineTuneConfig(\n", "line 4: SyntaxError: '\\(' was never closed"),
        (
            HEAD + "    config = FineTuneConfig()\n    config.fit.learning_rat = 1e-4\n",
            'line 5: AttributeError: .*learning_rat.* Did you mean "learning_rate"?',
        ),
        (
            HEAD + "    return FineTuneConfig(\n        phases=(Phase(epocs=3),))\n",
            'line 5: TypeError: .*epocs.* Did you mean "epochs"?',
        ),
        (HEAD + "    return helper()\n\ndef helper():\n    return int('x')\n", "line 7: ValueErr"),
        (
            HEAD + "    return FineTuneConfig(phases=(Phase('head', epochs=2),))\n",
            "line 4: TypeError: .* Settings are given by name, as Phase",
        ),
        ("config = 3\n", r"defines no function get_config\(\)"),
        ("get_config = 3\n", r"defines no function get_config\(\)"),
        ("def get_config():\n    {}\n", "returns NoneType; .* is its `return` missing?"),
        ("def get_config():\n    return {}\n", "returns dict; it must return a tf_finetune.FineT"),
        ("def get_config(size):\n    pass\n", "missing 1 required positional argument: 'size'"),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_mistake_in_a_recipe(tmp_path: Path, text: str, message: str) -> None:
    file = recipe(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(file)
    assert str(file) in str(caught.value)


def test_no_python_file(tmp_path: Path) -> None:
    file = recipe(tmp_path, "path: reviews.csv\n", "reviews.yaml")
    with pytest.raises(UserError, match=r"is no Python file; a recipe ends in \.py"):
        load_recipe(file)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    recipe(tmp_path, "", "reviews.py")
    with pytest.raises(UserError, match=r'there is no such file\. Did you mean ".*reviews\.py"?'):
        load_recipe(tmp_path / "review.py")
    with pytest.raises(UserError, match="there is no such file"):
        load_recipe(tmp_path / "no" / "such" / "folder.py")


def test_folder_lists_its_recipes(tmp_path: Path) -> None:
    recipe(tmp_path, "", "reviews.py")
    with pytest.raises(UserError, match=r"is a folder; name a file: .*reviews\.py"):
        load_recipe(tmp_path)
