"""Where the time of a training step goes: all of MiniLM, ten steps, by TensorFlow's profiler.

A run of the reviews recipe on 2,048 rows. Of each kind of work the milliseconds a step that
operations took, all threads together, and their share. Beside it how fast the step is, and how
that compares with this machine's fastest matrix multiplication, counting real tokens alone.

    python benchmarks/profile_step.py [--precision=float32]
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import Any

from tf_finetune import quiet

quiet.import_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # noqa: E402

from tf_finetune import fine_tune  # noqa: E402
from tf_finetune.recipe import load_recipe  # noqa: E402

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
FIRST, STEPS = 24, 10
MATRICES = "matrix multiplication"
# By what kind an operation is, or what stands in its name; the first that fits counts.
WORK = {
    MATRICES: ("MatMul", "Einsum"),
    "optimiser, with clipping": ("adam", "L2Loss", "clip_by_global_norm"),
    "dropout": ("dropout",),
    "GELU": ("feedforward_intermediate", "Erf"),
    "norms": ("layer_norm",),
    "the rest of attention": ("self_attention",),
    "the rest": ("",),
}
# Multiplications and additions a token in the six blocks' matrices, forward.
TOKEN = 2 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)


class Profile:
    """Profiles some steps."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._seen = folder, 0

    def on_train_batch_end(self, batch: int) -> None:
        """Begins or ends it."""
        self._seen += 1
        if self._seen == FIRST:
            tf.profiler.experimental.start(str(self._folder))
        if self._seen == FIRST + STEPS:
            tf.profiler.experimental.stop()


def by_work(folder: Path) -> dict[str, float]:
    """Milliseconds a step of each kind of work, from what the profiler wrote."""
    space = xplane_pb2.XSpace()
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    space.ParseFromString(file.read_bytes())
    found: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        names = {key: event.name for key, event in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            name, _, kind = names[event.metadata_id].rpartition(":")
            if "/" not in name or not kind.isidentifier():
                continue  # not an operation of the step
            found[_work_of(name, kind)] += event.duration_ps / 1e9 / STEPS
    return {work: found[work] for work in WORK}


def _work_of(name: str, kind: str) -> str:
    for work, parts in WORK.items():
        # Shapes of a product's operands are made under its name too.
        if any(part in kind or (part in name and work != MATRICES) for part in parts):
            return work
    raise AssertionError(name)


def peak(dtype: str) -> float:
    """Operations a second of a large matrix multiplication, the best of 20."""
    a = tf.cast(tf.random.normal((2048, 2048)), dtype)
    product = tf.function(lambda: tf.matmul(a, a), autograph=False)
    seconds = []
    for _ in range(21):
        began = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(seconds)


def main() -> None:
    """Reads the command line, profiles and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    config = load_recipe(CONFIG)
    config.phases, config.fit.epochs, config.data.limit = "full", 2, 2048
    config.fit.precision = options.precision
    results = config.results
    results.export = results.probe_baseline = results.label_audit = results.drift = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile, own = Profile(folder / "profile"), keras.callbacks.CallbackList.on_train_batch_end

        def ended(self: Any, batch: int, logs: Any = None) -> None:
            profile.on_train_batch_end(batch)
            own(self, batch, logs)

        keras.callbacks.CallbackList.on_train_batch_end = ended  # a run takes no callbacks
        result = fine_tune(config, folder / "run")
        found = by_work(folder / "profile")
        (offsets,) = (folder / "run" / "cache").glob("tokens-*/offsets.npy")
        lengths = np.diff(np.load(offsets))
        tokens = float(lengths[lengths > 0].mean())
    total = sum(found.values())
    print("| work | ms a step | share |", "|---|---|---|", sep="\n")
    for work, ms in found.items():
        print(f"| {work} | {ms:.0f} | {ms / total:.0%} |")
    dtype = result.metrics["precision"]
    speed, best = result.history[-1]["examples_per_second"], peak(dtype)
    share = speed * tokens * 3 * TOKEN / best
    print(f"{dtype}: {speed:.0f} examples a second, {tokens:.1f} real tokens each;")
    print(f"{share:.0%} of {best / 1e9:.0f} GFLOP/s, the best of this machine")


if __name__ == "__main__":
    main()
