"""The command line: reads the flags, checks them, explains errors.

    tf-finetune --config=RECIPE.py --workdir=FOLDER --config.KEY=VALUE ...

The exit status is 0 when done, 2 for a mistake that you can mend, 1 for one that is
ours or a selftest that failed, 130 after Ctrl-C, 143 after SIGTERM, 75 when another worker
of the run was lost or never came. A run that was stopped or killed goes on where it was when
the same command is given again, on all its hosts.
"""

from __future__ import annotations

import atexit
import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tf_finetune import __version__
from tf_finetune.cluster.lost import LOST_STATUS, PeerLost
from tf_finetune.commands import MODES, Command, carry_out
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.paths import at_home, expand
from tf_finetune.errors import ExportError, UserError
from tf_finetune.overrides import describe_settings, override
from tf_finetune.recipe import load_recipe
from tf_finetune.stopping import Stop, Stopped, ask_on_sigterm, ignore_sigterm
from tf_finetune.value_checks import one_of
from tf_finetune.workdir import READING, check_finished, check_same_config, read_config

# What may be another than the run's: how a file in --input is read, and what is exported.
_OTHER = {"evaluate": READING, "predict": READING, "export": ("results.formats",)}
_WITHOUT_CONFIG = {
    "selftest": "makes a run of its own",
    "compare": "takes the configurations of its runs",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_OUR_FAULT = (
    "this is a fault of ours, not of your command. Please report it with all that stands "
    "above, the recipe, and these lines:"
)


def run(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, explaining any error on stderr.

    Args:
        argv: with the program's name in front; None means `sys.argv`.

    Returns:
        The exit status.
    """
    own_process = argv is None
    argv = list(sys.argv if argv is None else argv)
    command, stop, well = None, Stop(), True
    if own_process:
        ask_on_sigterm(stop)
    try:
        command = parse(argv)
        if command is None:
            print(help_text())
        else:
            well = carry_out(command, stop)
        if own_process:  # all is done
            ignore_sigterm()
        sys.stdout.flush()
        return 0 if well else 1
    except Stopped:
        message, status = _stopped(command, stop), 143
        if own_process:
            ignore_sigterm()
            sys.stdout.flush()
            atexit.register(os._exit, status)  # TensorFlow's threads are in the middle of work
    except UserError as error:
        message, status = str(error), 2
    except ExportError as error:
        message, status = str(error), 1
    except PeerLost as error:
        message, status = str(error), LOST_STATUS
        if own_process:
            # TensorFlow waits nine seconds at its end for a worker that does not answer.
            sys.stdout.flush()
            atexit.register(os._exit, status)
    except KeyboardInterrupt:
        message, status = "stopped by Ctrl-C.", 130
    except BrokenPipeError:  # the reader of our output, `head` or `less`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        place = (command.output or command.workdir) if command else None
        message, status = _environment(error, place), 2
        if not message:
            traceback.print_exc()
            message, status = f"{_OUR_FAULT}\n  {_line(argv)}\n  {_versions()}", 1
        elif own_process:
            # HDF5 crashes when the process ends with a file that could not be written.
            atexit.register(os._exit, status)
    print(f"tf-finetune: {message}", file=sys.stderr, flush=True)
    return status


def _stopped(command: Command | None, stop: Stop) -> str:
    if not command or command.mode != "train":
        return "stopped by SIGTERM."
    return f"stopped by SIGTERM; the same command goes on from {stop.place or 'the beginning'}."


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags; nothing is defined by importing this module."""
    modes = ", ".join(MODES)
    flags.DEFINE_string("mode", "train", f"What to do: {modes}.", flag_values=values)
    flags.DEFINE_string(
        "config", None, "Recipe: a Python file with get_config().", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)
    flags.DEFINE_string("input", None, "Data to evaluate or predict.", flag_values=values)
    flags.DEFINE_string(
        "output", None, "Where predict, export or find_rate (a plot) writes.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "text", [], "A text to predict; once for each, or without --text.", flag_values=values
    )
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)


def help_text() -> str:
    """What `--help` shows: the usage, the flags, and every setting with its default."""
    values = flags.FlagValues()
    define_flags(values)
    shown = [f"  --{name}: {values[name].help}" for name in values if len(name) > 1]
    return "\n".join(
        [__doc__ or "", "Flags:", *shown, "", "Settings and their defaults:", describe_settings()]
    )


def parse(argv: Sequence[str]) -> Command | None:
    """Reads and checks a command line; needs no TensorFlow.

    Args:
        argv: with the program's name in front.

    Returns:
        The command, or None if help is asked for.

    Raises:
        UserError: for anything wrong in the flags, the recipe or its values.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt()
    define_flags(values)
    try:
        _, *rest = values(argv, known_only=True)
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}.") from None
    if values.help:
        return None
    one_of("--mode", values.mode, MODES)
    for name in ("config", "workdir", "input", "output"):
        value = values[name].value
        if value is not None and (not value or value.startswith("--")):
            raise UserError(f"--{name} has no value.")
        if value and name != "input":  # which names several, and is expanded with these
            values[name].value = str(at_home(value))  # a shell leaves `~` behind `=` as it is
    config, texts = _config(values, rest)
    if config.data.text_pair and values.text and texts:
        raise UserError("give all texts by --text, or all without: in pairs their order counts.")
    texts = [*values.text, *texts]
    _check_use(values, texts)
    return Command(
        mode=values.mode,
        config=config,
        workdir=Path(values.workdir or tempfile.gettempdir()),
        input=values.input,
        output=Path(values.output) if values.output else None,
        texts=texts,
        line=_line(argv),
        has_workdir=bool(values.workdir),
    )


def _config(values: flags.FlagValues, rest: list[str]) -> tuple[FineTuneConfig, list[str]]:
    """The configuration, and the arguments that are no flags."""
    run = Path(values.workdir) if values.workdir and values.mode in _OTHER else None
    if values.config:
        config = load_recipe(values.config)
    else:
        config = read_config(run) if run else FineTuneConfig()
    config, texts = override(config, rest, known=tuple(values))
    if values.mode in _WITHOUT_CONFIG:
        if values.config or any(argument.startswith("--config.") for argument in rest):
            raise UserError(
                f"--mode={values.mode} {_WITHOUT_CONFIG[values.mode]}: leave --config out."
            )
        return config, texts
    if not values.workdir and values.mode not in ("plan", "find_rate"):
        raise UserError("--workdir is missing; it names the run's folder, as --workdir=runs/first.")
    config.validate()
    if run:
        check_finished(run)
        check_same_config(
            run,
            config,
            but=_OTHER[values.mode] if values.input or values.mode == "export" else (),
            mend="Leave them out; the run is used with its own settings.",
        )
        if bool(config.data.text_pair) != bool(read_config(run).data.text_pair):
            raise UserError(
                f'config.data.text_pair is "{config.data.text_pair}", but the run is on '
                f"{'single texts' if config.data.text_pair else 'pairs of texts'}; leave it."
            )
    elif config.data.path:
        # TensorFlow takes seconds to start; a missing file is said before.
        expand(config.data.path, "config.data.path")
    elif not config.data.tfds:
        raise UserError("there is no data: give --config=RECIPE.py or --config.data.path=FILE.")
    return config, texts


def _check_use(values: flags.FlagValues, texts: list[str]) -> None:
    """Refuses what the mode would silently leave aside, and files that are not there."""
    mode = values.mode
    for name in ("input", "output", "text"):
        if values[name].value and name not in MODES[mode]:
            modes = " and ".join(other for other, takes in MODES.items() if name in takes)
            raise UserError(f"--{name} has no use in --mode={mode}; it goes with {modes}.")
    if mode == "compare":
        if values.workdir:
            raise UserError("--workdir has no use in --mode=compare, which takes folders alone.")
        if len(texts) < 2:
            raise UserError("--mode=compare needs two run folders or more, as runs/a runs/b.")
    elif texts and "text" not in MODES[mode]:
        raise UserError(f'unexpected "{texts[0]}": --mode={mode} takes flags alone, see --help.')
    for text in texts:
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # as Python holds other bytes
            raise UserError(
                f"{text!r} on the command line is no UTF-8; put it into a file, as UTF-8."
            )
    if mode == "predict" and bool(values.input) == bool(texts):
        raise UserError("--mode=predict needs either texts or a file of them in --input.")
    if mode == "predict" and values.output and texts:
        raise UserError(
            "--output goes with a file in --input; predictions of texts on the command line are "
            "printed."
        )
    if values.input:
        expand(values.input, "--input")


def _line(argv: Sequence[str]) -> str:
    return shlex.join(["tf-finetune", *argv[1:]])


def _versions() -> str:
    return f"tf_finetune {__version__}, Python {platform.python_version()}, {platform.platform()}"


def _environment(error: Exception, place: Path | None) -> str:
    """The message for a full disk or a forbidden folder; empty for any other error."""
    place = getattr(error, "filename", None) or place or Path.cwd()
    cause: BaseException | None = error
    while cause:
        number = cause.errno if isinstance(cause, OSError) else None
        # TensorFlow and HDF5 give the text alone.
        if number in _DISK_FULL or "No space left on device" in str(cause):
            return f'the disk is full at "{place}"; make room there, or choose another folder.'
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return f'"{place}": {os.strerror(error.errno)}; choose another folder.'
    return ""


if __name__ == "__main__":
    sys.exit(run())
