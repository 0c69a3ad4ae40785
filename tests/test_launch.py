"""`tf-finetune-launch`: what it starts, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.cluster.processes import ROOT, Worker
from tf_finetune.cluster import local
from tf_finetune.launch import run

_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # nohup, &
    "from tf_finetune.launch import run; "
    "sys.exit(run(['tf-finetune-launch', *sys.argv[2:]], [sys.executable, *sys.argv[1].split()]))"
)
_WORKER = str(ROOT / "tests" / "cluster" / "worker.py")


@pytest.fixture
def launch(tmp_path: Path):
    """Starts the launcher with a Python file as the program of each worker."""
    made = []

    def launched(*arguments, code="", program=_WORKER, **environ):
        if code:
            file = tmp_path / "program.py"
            file.write_text(f"import json, os, signal, sys, time\n{code}\n")
            program = str(file)
        for name in ("TF_CONFIG", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "OMP_NUM_THREADS"):
            assert name not in os.environ
        command = [sys.executable, "-c", _START, program, *arguments]
        made.append(Worker(command, {"CUDA_VISIBLE_DEVICES": "", **environ}))
        return made[-1]

    yield launched
    for one in made:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            one.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(10)
        one.remove()


def lines(launcher) -> list[str]:
    """All lines on stdout, once the launcher has ended."""
    return sorted(iter(launcher.lines.get, None))


def test_workers_meet_and_their_lines_are_told_apart(launch) -> None:
    launcher = launch("--workers=3", "--", '{"shared": "x"}')
    assert launcher.ends() == (0, "")
    said = ("finished", 'met "x"', "starts")
    assert lines(launcher) == [f"[worker {index}] {line}" for index in range(3) for line in said]


def test_the_console_script_is_this() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["tf-finetune-launch"].partition(":")
    assert getattr(import_module(module), name) is run


def test_arguments_go_to_tf_finetune(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["tf-finetune-launch", "--workers=1", "--", "--mode=fit"]) == 2
    message = capfd.readouterr().err
    assert message.startswith('[worker 0] tf-finetune: --mode is "fit"; allowed: train,')


def test_cores_are_divided_and_set_values_kept(launch) -> None:
    code = "print(os.environ['OMP_NUM_THREADS'], os.environ.get('TF_NUM_INTRAOP_THREADS'))"
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    launcher = launch("--workers=2", "--", code=code, TF_NUM_INTRAOP_THREADS="7")
    assert launcher.ends() == (0, "")
    assert lines(launcher) == [f"[worker {index}] {cores} 7" for index in range(2)]


def test_gpus_are_divided() -> None:
    def seen(count: int, visible: str) -> list[str]:
        shares = local.environments(count, {"CUDA_VISIBLE_DEVICES": visible})
        return [share.get("CUDA_VISIBLE_DEVICES", "none") for share in shares]

    assert seen(2, "0,1,2,3") == ["0,1", "2,3"]
    assert seen(2, "GPU-a, GPU-b") == ["GPU-a", "GPU-b"]
    assert seen(2, "-1") == seen(2, "") == ["none", "none"]
    assert seen(2, "3,1,-1,0") == ["3", "1"]


def test_gpus_that_cannot_be_divided_are_refused(launch) -> None:
    launcher = launch("--workers=2", "--", CUDA_VISIBLE_DEVICES="0,1,2")
    status, said = launcher.ends()
    assert status == 2
    assert said.startswith("tf-finetune-launch: --workers is 2, but there are 3 GPUs, which cannot")


def test_all_are_started_again_when_one_was_killed(launch, tmp_path: Path) -> None:
    options = json.dumps({"killed_once": str(tmp_path / "killed")})
    launcher = launch("--workers=3", "--restarts=2", "--", options)
    status, said = launcher.ends()
    assert status == 0, said
    assert "worker was lost (status 137); starting all again, 1 restarts left." in said
    # Both others said who was lost.
    assert said.count("worker 1 (127.0.0.1:") == 2
    assert lines(launcher).count("[worker 1] met null") == 2


def test_without_restarts_the_first_bad_status_is_that_of_all(launch, tmp_path: Path) -> None:
    options = json.dumps({"killed_once": str(tmp_path / "killed")})
    launcher = launch("--workers=2", "--", options)
    assert launcher.ends()[0] == 137


@pytest.mark.parametrize("status", [1, 2])
def test_a_mistake_is_not_made_again(launch, status: int) -> None:
    code = f"sys.exit(75 if '\"index\": 0' in os.environ['TF_CONFIG'] else {status})"
    launcher = launch("--workers=2", "--restarts=9", "--", code=code)
    ended, said = launcher.ends()
    assert ended == status  # whichever of the two came first
    assert said == ""


def test_the_others_are_ended_after_the_grace_time(launch) -> None:
    code = (
        "if '\"index\": 1' in os.environ['TF_CONFIG']: sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('asked to end')))\n"
        "time.sleep(1000)"
    )
    launcher = launch("--workers=2", "--grace=1", "--restarts=1", "--", code=code)
    assert launcher.ends() == (3, "")
    assert lines(launcher) == ["[worker 0] asked to end"]


def test_a_worker_that_hangs_is_killed(launch, monkeypatch) -> None:
    code = (
        "if '\"index\": 1' in os.environ['TF_CONFIG']: sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "time.sleep(1000)"
    )
    launcher = launch("--workers=2", "--grace=0", "--", code=code)
    assert launcher.ends() == (3, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_to_all_workers_which_end_in_their_own_time(launch, number) -> None:
    code = (
        "def leave(number, _):\n"
        "    time.sleep(1); print('saved', flush=True); sys.exit(128 + number)\n"
        "signal.signal(signal.SIGTERM, leave); signal.signal(signal.SIGINT, leave)\n"
        "print('ready', flush=True); time.sleep(1000)"
    )
    launcher = launch("--workers=2", "--restarts=3", "--", code=code)
    assert {launcher.says(), launcher.says()} == {"[worker 0] ready", "[worker 1] ready"}
    launcher.process.send_signal(number)
    assert launcher.ends() == (128 + number, "")
    assert lines(launcher) == ["[worker 0] saved", "[worker 1] saved"]


def test_a_second_signal_does_not_wait(launch) -> None:
    code = (
        "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    launcher = launch("--workers=1", "--", code=code)
    assert launcher.says() == "[worker 0] ready"
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.says() == "[worker 0] asked"
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.ends() == (137, "")


def test_on_several_hosts_it_becomes_the_one_worker(launch) -> None:
    code = "print(os.getpid(), os.environ['TF_CONFIG'], sys.argv[1:])"
    launcher = launch(
        "--",
        "--workdir=x",
        code=code,
        SLURM_PROCID="1",
        SLURM_NTASKS="2",
        SLURM_STEP_NODELIST="n[1-2]",
        TF_FINETUNE_PORT="4000",
    )
    assert launcher.ends() == (0, "")
    assert lines(launcher) == [
        f'{launcher.process.pid} {{"cluster": {{"worker": ["n1:4000", "n2:4000"]}}, '
        '"task": {"type": "worker", "index": 1}} [\'--workdir=x\']'
    ]


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--workers=0", "--"], {}, '--workers is "0"; it must be a whole number of at least 1.'),
        (["--workers=two", "--"], {}, '--workers is "two"; it must be a whole number of at least'),
        (["--restarts=-1", "--"], {}, '--restarts is "-1"; it must be a whole number of at least'),
        (["--grace=1.5", "--"], {}, '--grace is "1.5"; it must be a whole number of at least 0.'),
        (["--worker=2", "--"], {}, "unrecognized arguments: --worker=2. See --help."),
        (["--workers=2"], {}, 'there is no "--"; write the arguments of tf-finetune after it:'),
        (["--workers=2", "--config=x"], {}, "unrecognized arguments: --config=x."),
        (["--"], {}, "nothing says who takes part: give --workers=N"),
        (["--workers=2", "--"], {"TF_CONFIG": "{}"}, "--workers is 2, but TF_CONFIG names the"),
        (["--"], {"TF_CONFIG": "{"}, "TF_CONFIG is no JSON: "),
        (["--restarts=2", "--"], {"TF_CONFIG": "{}"}, "--restarts is 2, but without --workers"),
    ],
)
def test_mistakes(arguments, environ, message, monkeypatch, capfd) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run(["tf-finetune-launch", *arguments], ["/nonexistent"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"tf-finetune-launch: {message}"), said
    assert said.count("\n") == 1


def test_the_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(["tf-finetune-launch", "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for option in ("--workers", "--restarts", "--grace"):
        assert option in said
