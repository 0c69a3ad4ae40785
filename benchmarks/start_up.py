"""Where the time goes before the first update: each step as a process of its own would see it.

Medians over several processes, one after another, of the seconds from a process's start: until
`--help` and a mistake are told, TensorFlow and then this package's run are imported, MiniLM is
loaded, the rows are read, checked and cut into tokens, and the first update of all blocks is made.

    python benchmarks/start_up.py [--times=3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
MAIN = (sys.executable, "-m", "tf_finetune.main")
SAID = {
    "`--help`": (*MAIN, "--help"),
    "a mistake in a setting": (*MAIN, f"--config={CONFIG}", "--workdir=x", "--config.fit.epohcs=3"),
}
# Prints the seconds since its process was started, at each step.
_STEPS = """
import json, sys, time
began, config_file, folder = float(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {}
def reached(name):
    found[name] = time.time() - began
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
from tf_finetune import quiet
quiet.import_tensorflow()
import tensorflow
reached("TensorFlow imported")
import keras_hub
from tf_finetune.train import fine_tune
reached("KerasHub and the run imported")
from tf_finetune import assemble, train
from tf_finetune.recipe import load_recipe
config = load_recipe(config_file)
config.phases = "full"
config.results.probe_baseline = False
loaded = assemble.inputs_of
def timed_inputs(*given):
    made = loaded(*given)
    reached("MiniLM loaded")
    return made
assemble.inputs_of = timed_inputs
set_up = train.set_up
def timed_set_up(*given, **options):
    made = set_up(*given, **options)
    reached("rows read, checked and cut into tokens")
    return made
train.set_up = timed_set_up
class Done(BaseException):
    pass
import keras
def ended(self, batch, logs=None):
    reached("first update made")
    raise Done
keras.callbacks.CallbackList.on_train_batch_end = ended
try:
    fine_tune(config, folder + "/run", say=lambda line: None)
except Done:
    print(json.dumps(found))
"""


def told(command: tuple[str, ...]) -> float:
    """Seconds of a process that only says something."""
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - began


def steps() -> dict[str, float]:
    """Seconds from a process's start to each step of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _STEPS, str(time.time()), str(CONFIG), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Reads the command line, starts the processes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    print("| until | seconds |", "|---|---|", sep="\n")
    for name, command in SAID.items():
        seconds = statistics.median(told(command) for _ in range(options.times))
        print(f"| {name} | {seconds:.2f} |", flush=True)
    found = [steps() for _ in range(options.times)]
    for name in found[0]:
        print(f"| {name} | {statistics.median(one[name] for one in found):.1f} |")


if __name__ == "__main__":
    main()
