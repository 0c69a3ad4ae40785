"""What an export gives in a fresh process, on its own runtime, held against the model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.data.text import encode
from tf_finetune.errors import ExportError

TOLERANCE = 1e-5
# Real texts that are compared, and those of them whose time is taken.
PARITY_TEXTS, TIMED = 64, 20
# What real texts seldom hold and a server is sent sooner or later.
HARD_TEXTS = (
    "",
    " \t\r\n ",
    "word " * 10_000,
    "a" * 5_000,
    "👍🏽 great 🎬🍿 film 🇫🇷 👨‍👩‍👧",
    "这部电影非常好看。日本語のテキスト。",
    "هذا الفيلم رائع جدا",
    "यह फिल्म बहुत अच्छी है",
    "café naïve Ångström ﬁne İstanbul ß",
    "bell\x07escape\x1b[0m\x7f\u200b\ufeff\u202e zero\x00 end",
    "typed <pad> and </s> here",
)
# Around what a format says of itself: `run(i)`, the outputs (1, k) of one text. It may take
# `inputs(i)`, arrays (1, length) of the model's own tokens, or `texts(i)`, one or two strings;
# `facts` is what it has to say beyond that.
_CHILD = """
import json, sys, time
import numpy as np
path, folder, result, timed = sys.argv[1:]
with open(folder + "/texts.json", encoding="utf-8") as file:
    columns = json.load(file)
with np.load(folder + "/ids.npz") as arrays:
    held = dict(arrays)
ends = held.pop("ends")
facts = {{}}

def texts(i):
    return [column[i] for column in columns]

def inputs(i):
    found = {{name: values[None, ends[i] : ends[i + 1]] for name, values in held.items()}}
    return {{**found, "padding_mask": np.ones((1, ends[i + 1] - ends[i]), "int32")}}

{code}
found = [np.asarray(run(i)).reshape(1, -1) for i in range(len(columns[0]))]
seconds = []
for i in range(min(int(timed), len(found))):
    began = time.perf_counter()
    run(i)
    seconds.append(time.perf_counter() - began)
np.savez(folder + "/found.npz", outputs=np.concatenate(found), seconds=seconds)
with open(folder + "/facts.json", "w") as file:
    json.dump(facts, file)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder of the export.
        bytes: of all its files.
        texts: how many texts, or pictures, were compared.
        max_difference: the largest difference between the export's outputs in a
            fresh process and the model's.
        milliseconds: the median time for one text or picture at a time there, on this
            machine's processor; for LiteRT and ONNX from its tokens or pixels on, else from
            the string or file on. None where the check is by another runtime than the one that
            will serve.
        facts: what the check of this format found besides.
    """

    path: Path
    bytes: int
    texts: int
    max_difference: float
    milliseconds: float | None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found of an export before it got its name.

    Attributes:
        inputs: that it takes, by name.
        compared: how many texts or pictures.
        difference: see `Exported.max_difference`.
        milliseconds: see `Exported`.
        facts: see `Exported`.
        beside: what else should stand in the export's folder.
    """

    inputs: Sequence[str]
    compared: int
    difference: float
    milliseconds: float | None
    facts: Mapping[str, Any]
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def with_hard_texts(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """The text columns with `HARD_TEXTS` below."""
    # Reversed in a second column: an empty text meets a long one.
    hard = (HARD_TEXTS, HARD_TEXTS[::-1])
    return [[*column, *hard[i]] for i, column in enumerate(columns)]


def expected_outputs(model: Any, columns: Sequence[Sequence[str]]) -> np.ndarray:
    """The model's own outputs (n, k)."""
    return model.predict(columns[0] if len(columns) == 1 else tuple(columns))


def largest_difference(
    what: str,
    expected: np.ndarray,
    found: np.ndarray,
    columns: Sequence[Sequence[str]],
    tolerance: float = TOLERANCE,
    word: str = "text",
) -> float:
    """The largest difference between two outputs (n, k), of a value above 1 by that share.

    Args:
        what: the export is called in a message.
        expected: outputs of the model.
        found: outputs of the export.
        columns: of what the outputs are, for a message.
        tolerance: the most that is allowed.
        word: for one of these.

    Raises:
        ExportError: if it is larger than allowed, with the text.
    """
    # A regression's values may be far above 1, where float32 has no such digits.
    differences = (np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max(axis=1)
    worst = int(np.argmax(differences))
    # Written so that NaN fails too.
    if not differences[worst] <= tolerance:
        raise ExportError(
            f"The {what} differs from the model by {differences[worst]:.2g} (allowed: "
            f"{tolerance:g}) on the {word} {columns[0][worst][:80]!r}; nothing was exported."
        )
    return float(differences[worst])


def outputs_elsewhere(
    what: str,
    code: str,
    path: Path,
    model: Any,
    columns: Sequence[Sequence[str]],
    *,
    timed: bool = True,
) -> tuple[np.ndarray, float | None, dict[str, Any]]:
    """What an export gives for texts, one at a time, in a process that runs `code`.

    Args:
        what: the export is called in a message.
        code: defines `run(i)`, see `_CHILD`.
        path: of the export.
        model: whose tokens are handed over.
        columns: of texts.
        timed: whether it matters how long that takes.

    Returns:
        The outputs (n, k), the median milliseconds of a text or None, and the code's `facts`.

    Raises:
        ExportError: if the process failed.
    """
    rows = encode(model.preprocessor, *columns)
    held = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    ends = np.cumsum([0, *(row["token_ids"].size for row in rows)])
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/ids.npz", ends=ends, **held)  # type: ignore[arg-type]
        Path(folder, "texts.json").write_text(json.dumps(columns), encoding="utf-8")
        arguments = [str(path), folder, result_name(model.kind), str(TIMED * timed)]
        run_fresh(what, _CHILD.format(code=code), *arguments)
        outputs, milliseconds, facts = read_found(folder)
    return outputs, milliseconds if timed else None, facts


def read_found(folder: str) -> tuple[np.ndarray, float, dict[str, Any]]:
    """What a process left in a folder: outputs, the median milliseconds of one, and facts."""
    with np.load(f"{folder}/found.npz") as arrays:
        outputs, seconds = arrays["outputs"], arrays["seconds"]
    facts = json.loads(Path(folder, "facts.json").read_text())
    return outputs, 1e3 * float(np.median(seconds)) if len(seconds) else 0.0, facts


def run_fresh(what: str, code: str, *arguments: str, feed: Iterable[bytes] = ()) -> None:
    """Runs Python code in a fresh process.

    Args:
        what: the export is called in a message.
        code: to run.
        *arguments: of the process.
        feed: what it reads from its standard input, piece by piece.

    Raises:
        ExportError: if that failed, with the end of what it said.
    """
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            # The child must not compete for an accelerator that is in use here.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
                "CUDA_VISIBLE_DEVICES": "-1",
                # NumPy's threads wait for each other longer than a single text takes.
                "OPENBLAS_NUM_THREADS": "1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        # One that has failed reads no more, and says below why.
        with contextlib.suppress(BrokenPipeError), child:
            assert child.stdin
            for piece in feed:
                child.stdin.write(piece)
        if child.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace")[-2000:]
            raise ExportError(
                f"The {what} does not run in a fresh process; nothing was exported.\n{end}"
            )


def result_name(kind: str) -> str:
    """The output of an export that holds the model's numbers."""
    return "value" if kind == "regression" else "probabilities"
