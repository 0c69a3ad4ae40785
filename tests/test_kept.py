"""Runs whose phases train on kept activations end as those that do not."""

import dataclasses

import keras
import keras_hub
import numpy as np
import pytest

from tests import runs
from tests.pictures import arrays_of_pictures
from tests.runs import CLASSES, config_for, without_times
from tests.tiny import VOCABULARY, tiny_backbone
from tests.tiny_pictures import save_image_preset
from tf_finetune import kept as kept_of
from tf_finetune import one_phase, train
from tf_finetune.assemble import set_up
from tf_finetune.checkpoints.lock import locked
from tf_finetune.config import Phase
from tf_finetune.data.views import ViewStore
from tf_finetune.errors import UserError
from tf_finetune.fit import frozen_part, kept_features, planned_cuts
from tf_finetune.fit.cut_costs import Costs
from tf_finetune.fit.resuming import SaveState
from tf_finetune.model.task import TextTask
from tf_finetune.results import frozen_features
from tf_finetune.train import fine_tune

LAST = Phase(name="last", train="last:1", epochs=3, learning_rate=1e-2)
NOT_CUT = "phase last: the model is not cut, because "


@pytest.fixture(autouse=True)
def it_pays(monkeypatch):
    """So small a model would not be cut: reading takes as long."""
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1})


def run(preset, folder, **changes):
    said = []
    given = {"phases": (LAST,), "epochs": 2, "probe_baseline": False}
    config = config_for(preset, **(given | changes))
    return fine_tune(config, folder, runs.classes(), say=said.append), said


def assert_close(first, second, atol=1e-6):
    for a, b in zip(first.model.weights, second.model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=atol, err_msg=a.path)


def told(said, start="phase last: trains on kept activations"):
    return [line for line in said if line.startswith(start)]


CASES = {
    "last block": {},
    "dropout, averages, parts, several a call": {
        "dropout": 0.3,
        "ema": 0.9,
        "micro_batch": 5,
        "steps_per_execution": 2,
        "gradient_checkpointing": True,
    },
    "two passes, mixed": {"r_drop": 0.5, "mixup": 0.4, "l2_sp": 0.1, "layer_decay": 0.8},
    "from the disk": {"cache_memory": 0.0},
    "balanced": {"sampling": "balanced", "pooling": "backbone"},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_phase_on_kept_activations_ends_as_one_without(preset, tmp_path, changes):
    kept, said = run(preset, tmp_path / "kept", **changes)
    whole, silent = run(preset, tmp_path / "whole", cache=False, **changes)
    (line,) = told(said)
    assert line.endswith("on the disk" if changes.get("cache_memory") == 0 else "in memory")
    assert not told(silent)
    assert_close(kept, whole)
    for a, b in zip(kept.history, whole.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    shares = [result.metrics["phases"][0]["kept_share"] for result in (kept, whole)]
    assert 0.3 < shares[0] < 0.7  # one of two blocks
    assert shares[1] == 0
    assert f"{shares[0]:.1%} of the network's" in (tmp_path / "kept" / "report.md").read_text()
    # All frozen weights are proved the same, not only those above the cut.
    audits = [result.metrics["phases"][0]["audit"] for result in (kept, whole)]
    assert audits[0] == audits[1]
    assert not list((tmp_path / "kept" / "cache").glob("activations-*"))
    files = [(tmp_path / n / "checkpoints" / "1-last") for n in ("kept", "whole")]
    sizes = [(folder / "best.weights.h5").stat().st_size for folder in files]
    assert sizes[0] == sizes[1]


def test_pictures_are_kept_too_where_they_do_not_change(tmp_path):
    preset = save_image_preset(tmp_path / "tiny.keras")
    rows = arrays_of_pictures(count=20)
    found = []
    for cache in (True, False):
        said: list[str] = []
        config = config_for(preset, phases=(LAST,), probe_baseline=False, cache=cache)
        config.model.sequence_length = 0
        found.append(fine_tune(config, tmp_path / str(cache), rows, say=said.append))
        assert bool(told(said)) is cache
    assert_close(*found)
    assert found[0].metrics["phases"][0]["audit"] == found[1].metrics["phases"][0]["audit"]


def test_one_pass_makes_what_all_phases_need(preset, tmp_path, monkeypatch):
    changes = {"phases": "gradual", "probe_baseline": True, "eval_batch": 16}
    kept, said = run(preset, tmp_path / "kept", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(planned_cuts, "_SHARE", 2.0)  # more than all: but for the head, no cut
        whole, _ = run(preset, tmp_path / "whole", **changes)
    # One epoch of `open 1` alone would not pay; below `open 2` there is only the stem.
    assert [line for line in said if "running the frozen" in line] == [
        "phase probe: running the frozen backbone once over all rows"
    ]
    assert [line.partition(":")[0] for line in said if "kept activ" in line] == ["phase open 1"]
    assert kept.metrics["phases"][0]["kept_share"] > 0.9
    assert_close(kept, whole)


def test_phases_of_one_cut_share_what_is_kept(preset, tmp_path):
    """In half precision as it was computed, and in another."""
    again = dataclasses.replace(LAST, name="again", epochs=1)
    for kept_in in ("computed", "float16"):
        given = {"phases": (LAST, again), "precision": "bfloat16", "cache_precision": kept_in}
        result, said = run(preset, tmp_path / kept_in, **given)
        assert sum("running the frozen" in line for line in said) == 1
        assert [line.partition(":")[0] for line in said if "kept activations" in line] == [
            "phase last",
            "phase again",
        ]
        assert [phase["audit"]["unmoved"] for phase in result.metrics["phases"]] == [[], []]


def killed_at(monkeypatch, call):
    """Has training stopped at a batch, as by a kill."""
    calls, after = [], SaveState.on_train_batch_end

    def stopped(*args, **kwargs):
        after(*args, **kwargs)
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(SaveState, "on_train_batch_end", stopped)


@pytest.mark.parametrize("half", [False, True])
def test_a_stopped_head_finds_its_features_again(preset, tmp_path, monkeypatch, half):
    """Also where its pass over the rows makes the activations of a later phase."""
    changes = {"save_every": 1, "probe_baseline": True}
    if half:  # what the head trains on is computed in it too
        changes |= {"precision": "bfloat16", "pooling": "backbone"}
    with monkeypatch.context() as patch:
        killed_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(preset, tmp_path / "killed", **changes)
    _, said = run(preset, tmp_path / "killed", **changes)
    assert any("the frozen backbone has been run over all rows before" in line for line in said)
    assert not any("running the frozen" in line for line in said)


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_a_run_goes_on_with_what_it_kept(preset, tmp_path, monkeypatch, damaged):
    changes = {"save_every": 1, "dropout": 0.3, "eval_batch": 16, "probe_baseline": True}
    undisturbed, _ = run(preset, tmp_path / "undisturbed", **changes)
    with monkeypatch.context() as patch:
        killed_at(patch, 11)  # of 2 epochs of 3 updates on the head, then 3 on the last block
        with pytest.raises(KeyboardInterrupt):
            run(preset, tmp_path / "killed", **changes)
    (folder,) = (tmp_path / "killed" / "cache").glob("activations-*")
    file = folder / "kept_0.bin"
    before = file.stat().st_mtime_ns
    if damaged:
        file.write_bytes(b"x" * file.stat().st_size)
    with monkeypatch.context() as patch:
        patch.setattr(train, "remove_kept", lambda folder: None)
        again, said = run(preset, tmp_path / "killed", **changes)
    assert "goes on from phase last, epoch 2, update 2" in said
    assert (before != file.stat().st_mtime_ns) == damaged
    assert any("running the frozen" in line for line in said) == damaged
    assert_close(again, undisturbed, atol=0)
    assert without_times(again.metrics) == without_times(undisturbed.metrics)


def test_a_phase_that_trained_on_the_whole_goes_on_so(preset, tmp_path, monkeypatch):
    changes = {"save_every": 1}
    with monkeypatch.context() as patch:
        patch.setattr(planned_cuts, "_SHARE", 2.0)
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run(preset, tmp_path / "killed", **changes)
    _, said = run(preset, tmp_path / "killed", **changes)
    assert any(line.startswith("goes on from phase last") for line in said)
    assert not told(said)


def test_texts_that_change_are_not_kept(preset, tmp_path):
    result, said = run(preset, tmp_path / "run", token_deletion=0.2, epochs=1)
    assert told(said, NOT_CUT) == [
        NOT_CUT
        + "config.data changes the rows to train on in each epoch, and config.fit.cache_views is 0"
    ]
    assert len(result.history) == 3


def by_views(monkeypatch, views, head):
    """Has the whole network train on what else is kept: the same changed versions of rows."""
    plain = one_phase.examples_of_rows

    def examples(store, labels, train, validation, fit, noise, **how):
        seen = ViewStore(store, noise, views, fit.seed)
        how["version"] = seen.of_epoch
        if head:  # features are in no order by length
            seen.lengths = np.ones_like(seen.lengths)
        return plain(seen, labels, train, validation, fit, None, **how)

    monkeypatch.setattr(one_phase, "examples_of_rows", examples)


@pytest.mark.parametrize(
    ("phases", "kind"),
    [((LAST,), "texts"), ("probe", "texts"), ("probe", "pictures")],
    ids=["block", "head", "head of pictures"],
)
def test_kept_views_train_as_views_of_the_whole(preset, tmp_path, monkeypatch, phases, kind):
    given = {"phases": phases, "probe_baseline": False, "dropout": 0.3, "probe_epochs": 4}
    if kind == "pictures":
        preset, rows = save_image_preset(tmp_path / "tiny.keras"), arrays_of_pictures(count=20)
        given |= {"augment": "medium"}
    else:
        rows, given = runs.classes(), given | {"token_deletion": 0.2, "token_swap": 0.1}
    found, said = [], list[str]()
    for changes in ({"cache_views": 2}, {"cache": False}):
        config = config_for(preset, **given, **changes)
        config.model.sequence_length *= kind == "texts"
        with monkeypatch.context() as patch:
            if "cache" in changes:
                by_views(patch, 2, head=phases == "probe")
            name = "-".join(changes)
            found.append(fine_tune(config, tmp_path / name, rows, say=said.append))
    turns = [line for line in said if "epochs take turns at 2 changed versions of each" in line]
    assert len(turns) == 1
    assert_close(*found)
    for a, b in zip(*(result.history for result in found), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert found[0].metrics["phases"][0]["kept_share"] > 0.3


def test_a_run_goes_on_with_its_views(preset, tmp_path, monkeypatch):
    changes = {"save_every": 1, "token_deletion": 0.2, "cache_views": 2}
    undisturbed, _ = run(preset, tmp_path / "undisturbed", **changes)
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run(preset, tmp_path / "killed", **changes)
    again, said = run(preset, tmp_path / "killed", **changes)
    assert "goes on from phase last, epoch 2, update 2" in said
    assert_close(again, undisturbed, atol=0)


def test_what_was_measured_when_a_run_began_holds_when_it_goes_on(preset, tmp_path, monkeypatch):
    """Else a phase that has not begun yet might train otherwise."""
    two = dataclasses.replace(LAST, name="two", train="last:2")
    changes = {"save_every": 1, "phases": (two, LAST), "sequence_length": 16}
    monkeypatch.setattr(planned_cuts, "_SECONDS", 0.0)

    def measured(computing, reading):
        costs = Costs(computing=computing, reading=reading)
        monkeypatch.setattr(kept_of, "costs_in_run", lambda *_: costs)

    measured(1.0, 9.0)
    undisturbed, said = run(preset, tmp_path / "undisturbed", **changes)
    assert (
        "would take as long, 9,000.00 ms where computing takes 1,000.00" in told(said, NOT_CUT)[0]
    )
    with monkeypatch.context() as patch:
        killed_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(preset, tmp_path / "killed", **changes)
    measured(9.0, 1.0)
    again, said = run(preset, tmp_path / "killed", **changes)
    assert any(line.startswith("goes on from phase two") for line in said)
    assert told(said, NOT_CUT)
    assert_close(again, undisturbed, atol=0)


def test_later_runs_find_what_is_kept_in_a_folder_of_ones_own(preset, tmp_path):
    """A head's features and activations, whatever is trained on them."""
    head = Phase(name="head", train="head")
    changes = {"phases": (head, LAST), "cache_folder": str(tmp_path / "shared" / "kept")}
    run(preset, tmp_path / "first", **changes)
    there = {path.name for path in (tmp_path / "shared" / "kept").iterdir()}
    kinds = sorted(name.partition("-")[0] for name in there)
    assert kinds == ["activations", "costs.json", "features"]
    other = {"dropout": 0.2, "global_batch": 7}
    second, said = run(preset, tmp_path / "second", **(changes | other))
    assert told(said, "phase head: the frozen backbone has been run over all rows before")
    assert not [line for line in said if "running the frozen" in line]
    assert {path.name for path in (tmp_path / "shared" / "kept").iterdir()} == there
    alone, _ = run(preset, tmp_path / "alone", **(changes | other | {"cache_folder": ""}))
    assert_close(second, alone, atol=0)


def test_a_folder_that_another_run_holds_is_left_alone(preset, tmp_path):
    with locked(tmp_path):
        _, said = run(preset, tmp_path / "run", cache_folder=str(tmp_path))
    assert [line for line in said if line.startswith(f'"{tmp_path}" is in use by another run')]
    assert told(said)
    assert not list(tmp_path.glob("activations-*"))


def test_a_folder_that_is_none_is_told_before_training(preset, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"config.fit.cache_folder .*cannot be written to"):
        run(preset, tmp_path / "run", cache_folder=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_as_many_views_as_epochs_do_not_pay(preset, tmp_path):
    _, said = run(preset, tmp_path / "run", token_deletion=0.2, cache_views=3)
    assert told(said, NOT_CUT) == [NOT_CUT + "there are as many views as epochs"]


def test_what_is_kept_is_found_by_the_same_computation_alone(tmp_path):
    """Of a preset that is changed in place, under its own name."""
    file, seen = tmp_path / "tiny.keras", []

    def kept(vocabulary=VOCABULARY, exact_gelu=False, **options):
        keras.utils.set_random_seed(1)
        tokenizer = keras_hub.models.BertTokenizer(list(vocabulary), lowercase=True)
        preprocessor = keras_hub.models.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=16
        )
        backbone = tiny_backbone(num_layers=2)
        task = TextTask(
            backbone, preprocessor, "classification", CLASSES, exact_gelu=exact_gelu, **options
        )
        task.save(file)
        head = Phase(name="head", train="head")
        config = config_for(file, phases=(head, LAST), probe_baseline=False, pooling="mean")
        said: list[str] = []
        setup = set_up(config, tmp_path / "cache", runs.classes(), say=said.append)
        frozen = kept_of.frozen_part(setup, config, tmp_path / "cache", said.append)
        rows = setup.prepared.splits["train"][:4]
        features = frozen.features(1).batch(rows)
        now = setup.task.encoder(setup.store.batch(rows), training=False)
        np.testing.assert_allclose(features, now, atol=1e-6)
        seen.append({path.name for path in (tmp_path / "cache").glob("activations-*")})
        return any("has been run over all rows before" in line for line in said)

    swapped = list(VOCABULARY)
    swapped[5], swapped[6] = swapped[6], swapped[5]
    assert not kept()
    assert kept()
    assert not kept(exact_gelu=True)
    assert not kept(vocabulary=swapped)
    assert kept()
    assert [len(names) for names in seen] == [1, 1, 2, 3, 3]


def test_a_head_sees_rows_as_they_are_and_says_so(preset, tmp_path):
    head = Phase(name="head", train="head", epochs=1)
    _, said = run(preset, tmp_path / "run", phases=(head, LAST), token_deletion=0.2)
    assert "phase head: the head sees the rows as they are, which config.data changes" in said


def test_a_head_that_is_solved_takes_no_turns_at_views(preset, tmp_path):
    head = Phase(name="head", train="head", epochs=1)
    changes = {"phases": (head, LAST), "token_deletion": 0.2, "cache_views": 2}
    _, said = run(preset, tmp_path / "run", probe_solver="lbfgs", **changes)
    (line,) = [line for line in said if "epochs take turns" in line]
    assert line.startswith("phase last: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing in config.data changes them"),
        ({"token_deletion": 0.1, "cache": False}, "config.fit.cache is False"),
        ({"token_deletion": 0.1, "phases": "probe", "probe_solver": "lbfgs"}, "lbfgs"),
        ({"token_deletion": 0.1, "cache_views": -1}, "at least 0"),
        ({"token_deletion": 0.1, "phases": "full"}, "no phase leaves anything frozen"),
    ],
)
def test_views_that_nothing_would_see_are_refused(preset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as mistake:
        run(preset, tmp_path / "run", **({"cache_views": 2} | changes))
    assert "config.fit.cache_views is" in str(mistake.value)
    assert not (tmp_path / "run").exists()


def test_a_head_trains_alike_on_features_from_memory_and_from_the_disk(preset, tmp_path):
    changes = {"phases": "probe", "probe_epochs": 3, "dropout": 0.3}
    held, _ = run(preset, tmp_path / "held", **changes)
    read, _ = run(preset, tmp_path / "read", cache_memory=0.0, **changes)
    assert_close(read, held, atol=0)
    assert [row["loss"] for row in read.history] == [row["loss"] for row in held.history]


def test_a_full_disk_stops_no_training_of_a_head(preset, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    changes = {"phases": "probe", "probe_epochs": 2}
    undisturbed, _ = run(preset, tmp_path / "undisturbed", **changes)
    monkeypatch.setattr(kept_features, "written", full)
    monkeypatch.setattr(frozen_features, "written_whole", full)
    result, said = run(preset, tmp_path / "full", **changes)
    assert_close(result, undisturbed)
    assert told(said, "phase probe: its features are not kept for the report")


def test_a_full_disk_stops_no_training(preset, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen_part, "written", full)
    result, said = run(preset, tmp_path / "run")
    assert told(said, NOT_CUT) == [NOT_CUT + "[Errno 28] No space left on device"]
    assert len(result.history) == 3


def test_features_of_another_wiring_are_made_anew(tmp_path):
    """Of equal layers and weights, under one name."""

    def kept(turned):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(1 / 255)(inputs)
        x = keras.layers.Conv2D(8, 4, strides=4, name="conv")(x[..., ::-1] if turned else x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(x))
        keras.Model(inputs, x).save(tmp_path / "own.keras")
        config = config_for(tmp_path / "own.keras", phases="probe", probe_epochs=1)
        config.model.sequence_length, config.fit.cache_folder = 0, str(tmp_path / "kept")
        said: list[str] = []
        rows = arrays_of_pictures(count=20)
        fine_tune(config, tmp_path / f"run-{len(list(tmp_path.iterdir()))}", rows, say=said.append)
        return any("has been run over all rows before" in line for line in said)

    assert [kept(False), kept(False), kept(True), kept(True)] == [False, True, False, True]


def test_room_is_left_for_what_the_run_writes(preset, tmp_path, monkeypatch):
    asked = []
    written = frozen_part.written

    def noted(folder, shapes, dtype, needed):
        asked.append(needed)
        return written(folder, shapes, dtype, needed)

    monkeypatch.setattr(frozen_part, "written", noted)
    result, _ = run(preset, tmp_path / "run")
    model = (tmp_path / "run" / "model.keras").stat().st_size
    # The model and its export, and three checkpoints of the last block and the head.
    trained = 4 * result.metrics["phases"][0]["trainable"]
    assert 9 * trained + model < min(asked) < 9 * trained + 4 * (model + 2**20)


def test_what_killed_runs_left_goes(preset, tmp_path):
    shared = tmp_path / "shared"
    for name in ("writing-activations-1", "writing-features-2", "writing-measured-3"):
        (shared / name).mkdir(parents=True)
    (shared / "mine.txt").write_text("dear")
    run(preset, tmp_path / "run", cache_folder=str(shared))
    left = {path.name.partition("-")[0] for path in shared.iterdir()}
    assert left == {"activations", "costs.json", "mine.txt"}


def test_trials_decide_by_one_measurement(preset, tmp_path, monkeypatch):
    calls = []

    def measured(*args):
        calls.append(args)
        return Costs(computing=1.0, reading=1e-3)

    monkeypatch.setattr(kept_of, "costs_in_run", measured)
    for name in ("first", "second"):
        run(preset, tmp_path / name, cache_folder=str(tmp_path / "shared"))
    assert len(calls) == 1
