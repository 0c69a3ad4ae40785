"""The command line: what it calls, what it says, and its exit status.

The rooms behind it are replaced here; whole runs are tested with `fine_tune`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from tf_finetune import main, quiet
from tf_finetune.cluster.lost import PeerLost
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import ExportError, UserError
from tf_finetune.stopping import Stop

ROOT = Path(__file__).parent.parent


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """What the command line called, instead of the rooms that need TensorFlow."""

    fails: BaseException | None = None

    def function(self, name: str, result: Any = None) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.append((name, args, kwargs))
            if self.fails:
                raise self.fails
            return result

        return called


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    rooms = {
        "train": {"fine_tune": None},
        "plan": {"plan": "the plan"},
        "rerun": {"evaluate_run": "accuracy 0.9"},
        "reexport": {"export_run": "exported"},
        "exports.load": {"load_model": "the model"},
        "results.predict": {
            "predict_file": types.SimpleNamespace(
                rows=1234, undecodable=2, output=Path("o.csv"), unseen=0, left_out=0
            ),
            "predict_texts": ["a row"],
            "format_predictions": "good  98.2%",
        },
    }
    for room, functions in rooms.items():
        fake = {name: made.function(name, result) for name, result in functions.items()}
        monkeypatch.setitem(sys.modules, f"tf_finetune.{room}", types.SimpleNamespace(**fake))
    sys.modules["tf_finetune.results.predict"].check_output = lambda output, task: None  # type: ignore
    monkeypatch.setattr(quiet, "import_tensorflow", lambda: None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.csv"
    file.write_text("text,label\ngood,1\nbad,0\n")
    return file


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder, as far as the command line looks at it."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = FineTuneConfig()
    config.data.path = "somewhere.csv"
    config.fit.epochs = 7
    (folder / "config.json").write_text(config.to_json())
    (folder / "metrics.json").write_text("{}")
    return folder


def run(*arguments: object) -> int:
    return main.run(["tf-finetune", *map(str, arguments)])


def test_train(calls: Calls, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from tf_finetune import FineTuneConfig\n"
        "def get_config():\n"
        "    config = FineTuneConfig()\n"
        "    config.fit.epochs, config.fit.seed = 5, 6\n"
        "    return config\n"
    )
    before = f"--config.data.path={data}"  # an override may stand in front of its recipe
    folder = tmp_path / "run"
    assert run(before, f"--config={recipe}", "--workdir", folder, "--config.fit.seed=9") == 0
    ((name, (config, workdir), rest),) = calls
    assert name == "fine_tune"
    assert workdir == folder
    assert (config.data.path, config.fit.epochs, config.fit.seed) == (str(data), 5, 9)
    assert rest["command"].startswith("tf-finetune --config.data.path=")
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_plan_needs_no_workdir(
    calls: Calls, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--mode=plan", f"--config.data.path={data}") == 0
    ((name, (config,), _),) = calls
    assert (name, config.data.path) == ("plan", str(data))
    assert capsys.readouterr() == ("the plan\n", "")


def test_runs_are_compared_without_tensorflow(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(quiet, "import_tensorflow", lambda: pytest.fail("not needed"))
    fake = types.SimpleNamespace(compare=calls.function("compare", "beside each other"))
    monkeypatch.setitem(sys.modules, "tf_finetune.results.compare", fake)
    assert run("--mode=compare", "runs/a", "runs/b", "runs/c") == 0
    assert calls == [("compare", ([Path("runs/a"), Path("runs/b"), Path("runs/c")],), {})]
    assert "beside each other" in capsys.readouterr().out


def test_tune(calls: Calls, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(tune=calls.function("tune", None))
    monkeypatch.setitem(sys.modules, "tf_finetune.tuning.study", fake)
    given = ["--mode=tune", f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}"]
    space = '{"fit.epochs": [1, 2]}'
    assert run(*given, "--config.tune.trials=3", f"--config.tune.space={space}") == 0
    ((name, (config, workdir), _),) = calls
    assert (name, workdir) == ("tune", tmp_path / "run")
    assert (config.tune.trials, config.tune.space) == (3, space)
    assert run(*given, "--config.tune.trials=x") == 2
    assert run(*given, '--config.tune.space={"fit.epoch": [1]}') == 2
    assert len(calls) == 1


@pytest.mark.parametrize("identical", [True, False])
def test_the_selftests_result_is_the_exit_status(
    identical: bool, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.SimpleNamespace(selftest=calls.function("selftest", identical))
    monkeypatch.setitem(sys.modules, "tf_finetune.proof.selftest", fake)
    assert (
        run("--mode=selftest") == run("--mode=selftest", f"--workdir={tmp_path}") == 1 - identical
    )
    assert [arguments for _, arguments, _ in calls] == [(None,), (tmp_path,)]


def test_evaluate_and_export_take_the_runs_configuration(
    calls: Calls, finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--mode=evaluate", f"--workdir={finished}") == 0
    assert run("--mode=evaluate", f"--workdir={finished}", f"--input={data}") == 0
    assert run("--mode=export", f"--workdir={finished}", "--output=there") == 0
    formats = "--config.results.formats=onnx,litert"
    assert run("--mode=export", f"--workdir={finished}", formats) == 0
    assert run("--mode=evaluate", f"--workdir={finished}", formats) == 2
    assert [(name, args[:2]) for name, args, _ in calls] == [
        ("evaluate_run", (finished, None)),
        ("evaluate_run", (finished, str(data))),
        ("export_run", (finished, Path("there"))),
        ("export_run", (finished, None)),
    ]
    assert [args[2] for _, args, _ in calls[2:]] == [("saved_model",), ("onnx", "litert")]
    said = capsys.readouterr()
    assert said.out == "accuracy 0.9\naccuracy 0.9\nexported\nexported\n"
    assert "results.formats: ['saved_model'] -> ['onnx', 'litert']" in said.err


def test_predict_texts(calls: Calls, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--mode=predict", f"--workdir={finished}", "--text=one", "two words", "three") == 0
    assert calls[0][:2] == ("load_model", (finished,))
    assert calls[1][:2] == ("predict_texts", ("the model", ["one", "two words", "three"]))
    assert calls[2][:2] == ("format_predictions", (["a row"],))
    assert capsys.readouterr().out == "good  98.2%\n"


def test_predict_pairs(calls: Calls, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = FineTuneConfig()
    config.data.text_pair = "answer"
    (finished / "config.json").write_text(config.to_json())
    assert run("--mode=predict", f"--workdir={finished}", "q1", "a1", "q2", "a2") == 0
    assert calls[1][1] == ("the model", [("q1", "a1"), ("q2", "a2")])
    assert run("--mode=predict", f"--workdir={finished}", "q1", "a1", "q2") == 2
    assert "give two texts for each prediction" in capsys.readouterr().err


def test_predict_file(
    calls: Calls, finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--mode=predict", f"--workdir={finished}", f"--input={data}", "--output=o.csv") == 0
    name, args, _ = calls[1]
    assert name == "predict_file"
    assert args[:3] == ("the model", str(data), Path("o.csv"))
    assert args[3].fit.epochs == 7
    assert capsys.readouterr().out == "1,234 predictions written to o.csv, 2 from damaged text\n"


def test_how_a_new_file_is_read_may_differ_from_the_run(
    calls: Calls, finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text("review;stars\ngood;1\n")
    on_file = (f"--workdir={finished}", f"--input={data}", "--config.data.delimiter=;")
    on_file += ("--config.data.text=review", "--config.data.label=stars")
    assert run("--mode=evaluate", *on_file) == run("--mode=predict", *on_file) == 0
    assert [calls[0][1][2].text, calls[2][1][3].data.text] == ["review", "review"]
    assert run("--mode=evaluate", f"--workdir={finished}", "--config.data.text=review") == 2
    assert "data.text: 'text' -> 'review'" in capsys.readouterr().err


def test_another_configuration_than_the_runs_is_refused(
    calls: Calls, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = "--config.fit.epochs=7"
    assert run("--mode=evaluate", f"--workdir={finished}", same) == 0
    assert run("--mode=evaluate", f"--workdir={finished}", "--config.fit.seed=3") == 2
    assert "fit.seed: 0 -> 3" in capsys.readouterr().err
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--workdir is missing"),
        ("--workdir=W", "there is no data: give --config=RECIPE.py or --config.data.path=FILE"),
        ("--workdir=", "--workdir has no value"),
        ("--config --workdir=W", "--config has no value"),
        ("--config= --workdir=W", "--config has no value"),
        ("--workdir", "Missing value for flag --workdir"),
        ("--wrokdir=W", 'no flag --wrokdir. Did you mean "--workdir"?'),
        (
            "--mode=trian --workdir=W",
            '--mode is "trian"; allowed: train, plan, find_rate, evaluate',
        ),
        ("--workdir=W --config.data.path=D recipe.py", 'unexpected "recipe.py": --mode=train'),
        ("--workdir=W --config.data.paht=x", 'Did you mean "config.data.path"?'),
        ("--workdir=W --config.fit.learning_rate=fast", 'learning_rate is "fast"; it must be a'),
        ("--workdir=W --config.fit.epochs=2.5", 'config.fit.epochs is "2.5"; it must be a whole'),
        ("--workdir=W --config.fit.global_batch=-1", "config.fit.global_batch is -1"),
        ("--workdir=W --config.data.path=no.csv", 'config.data.path: there is no file "no.csv"'),
        ("--workdir=W --config=no.py", '--config "no.py": there is no such file'),
        ("--workdir=W --config.data.path=D --text=x", "--text has no use in --mode=train; it goes"),
        ("--workdir=D --config.data.path=D", '--workdir "D" cannot be written'),
        ("--workdir=D/x --config.data.path=D", '--workdir "D/x" cannot be written'),
        ("--workdir=. --config.data.path=D", "is no run folder and is not empty"),
        ("--mode=evaluate --workdir=W", '"W" is no run folder: it has no config.json'),
        ("--mode=predict --workdir=run", "needs either texts or a file of them in --input"),
        ("--mode=predict --workdir=run --input=D x", "needs either texts or a file of them"),
        ("--mode=predict --workdir=run --input=no.csv", '--input: there is no file "no.csv"'),
        ("--mode=evaluate --workdir=run --output=x", "--output has no use in --mode=evaluate"),
        ("--mode=predict --text=x", "--workdir is missing"),
        ("--mode=selftest --config.fit.seed=1", "makes a run of its own: leave --config out"),
        ("--mode=selftest --config.fit.seeed=1", 'Did you mean "config.fit.seed"?'),
        ("--mode=selftest fast", 'unexpected "fast": --mode=selftest takes flags alone'),
        ("--mode=selftest --input=D", "--input has no use in --mode=selftest"),
        ("--mode=compare run", "--mode=compare needs two run folders or more"),
        ("--mode=compare a b --workdir=W", "--workdir has no use in --mode=compare"),
        ("--mode=compare a b --config.fit.seed=1", "takes the configurations of its runs"),
        ("--mode=compare a b --input=D", "--input has no use in --mode=compare"),
        ("--mode=compare a b", '"a" is no run folder'),
        ("--mode=selftest --workdir=.", '--workdir "." is not empty (it holds D)'),
    ],
)
def test_mistakes_are_one_message_and_status_2(
    calls: Calls,
    data: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(data.parent)
    data.rename("D")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert run(*arguments.split()) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("tf-finetune: ")
    assert err.count("\n") == 1
    assert out == ""
    assert calls == []
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.name != "W"}
    assert after == before


def test_damaged_run_folder(calls: Calls, finished: Path, capsys: Any) -> None:
    (finished / "config.json").write_text('{"fit": {"epochs"')
    assert run("--mode=evaluate", f"--workdir={finished}") == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("row 3 of a.csv is empty."), 2, "tf-finetune: row 3 of a.csv is empty.\n"),
        (KeyboardInterrupt(), 130, "tf-finetune: stopped by Ctrl-C.\n"),
        (PeerLost("worker 1 (b:2222) is lost."), 75, "tf-finetune: worker 1 (b:2222) is lost.\n"),
        (RuntimeError("RESOURCE: No space left on device"), 2, 'the disk is full at "'),
        (PermissionError(13, "Permission denied", "/x/model"), 2, '"/x/model": Permission denied'),
    ],
)
def test_errors_of_the_user_have_no_traceback(
    calls: Calls, data: Path, tmp_path: Path, capsys: Any, error: Any, status: int, message: str
) -> None:
    calls.fails = error
    assert run(f"--workdir={tmp_path / 'run'}", f"--config.data.path={data}") == status
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


class Asked(Calls):
    """A room that is asked to stop while it works."""

    def function(self, name: str, result: Any = None) -> Any:
        def called(*args: Any, stop: Stop | None = None, **kwargs: Any) -> Any:
            if stop:
                stop.place = "phase tune, epoch 2, update 40"
            (stop or Stop()).ask()

        return called


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("train", "; the same command goes on from phase tune, epoch 2, update 40."),
        ("plan", "."),
    ],
)
def test_sigterm_is_status_143_and_says_where_it_goes_on(
    mode: str, message: str, calls: Calls, data: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    for room, name in (("train", "fine_tune"), ("plan", "plan")):
        fake = types.SimpleNamespace(**{name: Asked().function(name)})
        monkeypatch.setitem(sys.modules, f"tf_finetune.{room}", fake)
    given = [f"--workdir={tmp_path / 'run'}", f"--config.data.path={data}", f"--mode={mode}"]
    before = signal.getsignal(signal.SIGTERM)
    assert run(*given) == 143
    assert capsys.readouterr().err == f"tf-finetune: stopped by SIGTERM{message}\n"
    assert signal.getsignal(signal.SIGTERM) is before  # not ours where we are called


def test_the_command_itself_takes_sigterm_at_any_time(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\ngood,1\nbad,0\n")
    code = (
        "import os, signal, sys, types; from tf_finetune import main, quiet;"
        "quiet.import_tensorflow = lambda: None;"
        "stop = lambda config: os.kill(os.getpid(), signal.SIGTERM) or 'not reached';"
        "sys.modules['tf_finetune.plan'] = types.SimpleNamespace(plan=stop);"
        "sys.exit(main.run())"
    )
    given = ["--mode=plan", "--config.data.path=data.csv"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == "tf-finetune: stopped by SIGTERM.\n"


def test_a_full_disk_names_the_run_folder(
    calls: Calls, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="No space left") as full:
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = full.value
    calls.fails = wrapped
    assert run(f"--workdir={tmp_path / 'run'}", f"--config.data.path={data}") == 2
    assert f'the disk is full at "{tmp_path / "run"}"' in capsys.readouterr().err


def test_a_full_disk_is_status_2_even_if_the_end_of_the_process_crashes(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\ngood,1\nbad,0\n")
    code = (
        "import atexit, os, sys, types; from tf_finetune import main, quiet;"
        "quiet.import_tensorflow = lambda: None;"
        "full = lambda config: os.write(os.open('/dev/full', os.O_WRONLY), b'x');"
        "sys.modules['tf_finetune.plan'] = types.SimpleNamespace(plan=full);"
        "atexit.register(os.abort);"
        "sys.exit(main.run())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--mode=plan", "--config.data.path=data.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f'tf-finetune: the disk is full at "{tempfile.gettempdir()}"; '
        "make room there, or choose another folder.\n"
    )


def test_our_own_fault_keeps_its_traceback(
    calls: Calls, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.fails = KeyError("weights")
    assert run(f"--workdir={tmp_path / 'run'}", f"--config.data.path={data}") == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "KeyError: 'weights'" in err
    assert "a fault of ours" in err
    assert f"tf-finetune --workdir={tmp_path / 'run'}" in err
    assert "tf_finetune 0." in err


def test_flags_can_be_defined_again_and_never_globally(calls: Calls, data: Path) -> None:
    before = set(flags.FLAGS)
    for _ in range(2):
        assert run("--mode=plan", f"--config.data.path={data}", "--config.fit.epochs=3") == 0
    assert set(flags.FLAGS) == before


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    values = flags.FlagValues()
    main.define_flags(values)
    assert run("--help") == run("-h") == 0
    out, err = capsys.readouterr()
    for flag in values:
        assert f"--{flag}" in out
    assert "--config.fit.learning_rate=0.0001" in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--config.data.paht=x"], 2),
        (["--mode=plan", "--config.fit.clip=a"], 2),
        (["--mode=plan", "--config.model.preset=gone.keras"], 2),
        (["--workdir=/tmp/x", "--config.data.path=x.csv", "--config.model.preset=./gone"], 2),
    ],
)
def test_help_and_mistakes_do_not_wait_for_tensorflow(arguments: list[str], status: int) -> None:
    code = (
        "import sys; from tf_finetune.main import run; status = run();"
        "assert not {'tensorflow', 'keras', 'pandas', 'pyarrow'} & set(sys.modules);"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "tf_finetune.main"],
        [str(Path(sys.executable).parent / "tf-finetune")],
    ],
)
def test_module_and_script_leave_with_the_status(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*command, "--workdir=x", "--config.fit.epoch=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        'tf-finetune: there is no setting "config.fit.epoch". Did you mean "config.fit.epochs"?\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m tf_finetune.main --help | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 141)  # 0: all was written before the reader went
    assert done.stderr == ""


def test_an_output_that_would_not_be_written_is_refused(finished, capsys):
    status = main.run(
        ["tf-finetune", "--mode=predict", f"--workdir={finished}", "a text", "--output=out.csv"]
    )
    assert status == 2
    assert "--output goes with a file in --input" in capsys.readouterr().err


def test_a_failed_export_is_one_message(calls, finished, capsys):
    calls.fails = ExportError("The ONNX file differs.")
    status = main.run(["tf-finetune", "--mode=export", f"--workdir={finished}"])
    said = capsys.readouterr().err
    assert (status, "The ONNX file differs." in said, "fault of ours" in said) == (1, True, False)
