"""The table of rows on the disk, and rows that are taken out of it."""

import subprocess
import sys

import numpy as np
import pyarrow as pa

from tf_finetune.data.rows_file import taken, write

SCHEMA = pa.schema({"text": pa.string(), "number": pa.int64()})
PEAK = """
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from tf_finetune.data.duplicates import texts_of
from tf_finetune.data.rows_file import write
texts = (("x" * 1000,) for _ in range(60_000))
path = write(texts, pa.schema({"text": pa.string()}), Path(sys.argv[1]))
table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
before = pa.default_memory_pool().max_memory()
assert len(list(texts_of(table, np.array([59_999, 0])))) == 2
print(pa.default_memory_pool().max_memory() - before)
"""


def test_rows_are_taken_in_their_order(tmp_path):
    path = write(((f"text {i}", i) for i in range(10_000)), SCHEMA, tmp_path / "rows.arrow")
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert len(table.to_batches()) > 2
    rows = np.random.default_rng(0).integers(0, 10_000, 500)
    for chosen in (rows, np.sort(rows), rows[:0], np.array([9_999, 0, 9_999])):
        assert taken(table, chosen).to_pylist() == table.take(pa.array(chosen)).to_pylist()


def test_two_rows_take_no_copy_of_all(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "rows.arrow")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 20e6
