"""Finished runs on pictures: on tables and damaged files, and where their pictures have moved."""

import pytest
from PIL import Image

from tests.pictures import folder_of_pictures
from tests.runs import config_for
from tests.tiny_pictures import save_image_preset
from tf_finetune import main
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.finished import FitResult
from tf_finetune.reexport import export_run
from tf_finetune.rerun import evaluate_run
from tf_finetune.results.predict import predict_file
from tf_finetune.train import fine_tune

CLASSES = ("circle", "square")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder_of_pictures(tmp_path_factory.mktemp("data"), CLASSES, count=20)


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> FitResult:
    preset = save_image_preset(tmp_path_factory.mktemp("preset") / "tiny.keras")
    config = config_for(preset, path=str(pictures), sequence_length=0, phases="probe", flip=True)
    config.fit.cache_views = 2
    return fine_tune(config, tmp_path_factory.mktemp("run"))


def test_the_command_line_takes_a_table_for_a_run_on_a_folder(run, pictures, tmp_path, capsys):
    paths = sorted(pictures.rglob("*.png"))[::9]
    table, output = tmp_path / "new.csv", tmp_path / "out.jsonl"
    table.write_text("\n".join(["image,label", *(f"{p},{p.parent.name}" for p in paths)]))
    given = ["tf-finetune", f"--workdir={run.workdir}", f"--input={table}"]
    assert main.run([*given, "--mode=predict", f"--output={output}"]) == 0
    assert len(output.read_text().splitlines()) == len(paths)
    assert main.run([*given, "--mode=evaluate"]) == 0
    assert f"{len(paths)} rows" in capsys.readouterr().out


def test_pictures_that_are_left_out_are_counted(run, tmp_path, capsys):
    other = folder_of_pictures(tmp_path, CLASSES, count=3, seed=2)
    (other / "circle" / "0001.png").write_bytes(b"no picture")
    config = FineTuneConfig.from_json((run.workdir / "config.json").read_text())
    config.data.bad_rows = "drop"
    done = predict_file(run.model, other, tmp_path / "out.jsonl", config)
    assert (done.rows, done.left_out) == (5, 1)
    said = evaluate_run(run.workdir, str(other), config.data)
    assert "5 rows" in said
    assert "Left out: 1 x not a picture." in said


def test_of_pictures_that_have_moved_nothing_is_claimed(run, pictures, tmp_path):
    assert "stand in the data" in evaluate_run(run.workdir, str(pictures))
    moved = pictures.rename(tmp_path / "moved")
    try:
        said = evaluate_run(run.workdir, str(moved))
        assert "is unknown" in said
        assert "in a fresh process" in export_run(run.workdir, tmp_path / "out")
    finally:
        moved.rename(pictures)


def test_a_picture_of_pillow_that_is_cut_off_is_refused(run, pictures, tmp_path):
    content = (pictures / "circle" / "0000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="found a picture that cannot be read"):
        run.model.predict([Image.open(tmp_path / "cut.png")])
