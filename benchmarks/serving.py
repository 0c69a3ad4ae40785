"""Load on the example server: is a request lost or wrongly answered, and how long does one take?

Starts examples/serve.py on the SavedModel of a finished run, on 127.0.0.1, and sends it 1,000
texts of the run's data, 32 at a time, each held against the export called directly; then 500
malformed requests; then good ones again.

    python benchmarks/serving.py --run=runs/reviews
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from tf_finetune.exports.load import load_model

SERVER = Path(__file__).resolve().parent.parent / "examples" / "serve.py"
NAME = "bench"
PREDICT = f"/v1/models/{NAME}:predict"
MALFORMED: tuple[tuple[str, str, bytes], ...] = (
    ("POST", PREDICT, b""),
    ("POST", PREDICT, b"{"),
    ("POST", PREDICT, b"[" * 50_000),
    ("POST", PREDICT, b"\xff\xfe\x00"),
    ("POST", PREDICT, b'{"instances": []}'),
    ("POST", PREDICT, b'{"instances": [1]}'),
    ("POST", PREDICT, b'{"instances": [{"txet": "a"}]}'),
    ("POST", PREDICT, b'{"instances": ["\\ud800"]}'),
    ("POST", PREDICT, b'{"inputs": {"text": 7}}'),
    ("POST", PREDICT, b'{"instances": ["' + b"a" * 2_000_000 + b'"]}'),
    ("POST", PREDICT, json.dumps({"instances": ["a"] * 5_000}).encode()),
    ("POST", "/v1/models/other:predict", b'{"instances": ["a"]}'),
    ("GET", "/nothing", b""),
    ("DELETE", PREDICT, b""),
)


def main() -> None:
    """Reads the command line, sends the requests and prints what came back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/reviews"))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--malformed", type=int, default=500)
    parser.add_argument("--at_a_time", type=int, default=32)
    options = parser.parse_args()
    rows = pa.ipc.open_file(options.run / "cache" / "rows.arrow").read_all()
    texts = rows["text"].slice(0, options.requests).to_pylist()
    model = load_model(options.run / "export" / "saved_model")
    expected = model.predict(texts)
    with _server(options.run / "export" / "saved_model") as (host, port):
        send = _client(host, port)

        def good(i: int) -> tuple[int, float]:
            began = time.perf_counter()
            body = json.dumps({"instances": [texts[i]]}).encode()
            status, answer = send("POST", PREDICT, body)
            seconds = time.perf_counter() - began
            found = answer["predictions"][0]["probabilities"] if status == 200 else np.nan
            # Batches of other lengths differ in the last digit.
            return (status if np.allclose(found, expected[i], atol=1e-5) else -1), seconds

        def bad(i: int) -> tuple[int, float]:
            status, answer = send(*MALFORMED[i % len(MALFORMED)])
            return (status if "error" in answer else -1), 0.0

        fine = [
            _report("requests", _all(good, len(texts), options.at_a_time), range(200, 201)),
            _report("malformed", _all(bad, options.malformed, options.at_a_time), range(400, 500)),
            _report(
                "afterwards", _all(good, min(100, len(texts)), options.at_a_time), range(200, 201)
            ),
        ]
    sys.exit(not all(fine))


@contextlib.contextmanager
def _server(base: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, str(SERVER), f"--model_base_path={base}", f"--model_name={NAME}"]
    command += ["--rest_api_port=0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            place = urlsplit(process.stdout.readline().strip())
            yield str(place.hostname), int(place.port or 0)
            assert process.poll() is None, "the server has ended"
        finally:
            process.terminate()


def _client(host: str, port: int) -> Callable[[str, str, bytes], tuple[int, dict]]:
    """Sends a request on a connection of the calling thread, which is kept open."""
    own = threading.local()

    def send(method: str, path: str, body: bytes) -> tuple[int, dict]:
        if getattr(own, "connection", None) is None:
            own.connection = http.client.HTTPConnection(host, port, timeout=120)
        own.connection.request(method, path, body)
        response = own.connection.getresponse()
        return response.status, json.loads(response.read())

    return send


def _all(
    send: Callable[[int], tuple[int, float]], count: int, at_a_time: int
) -> list[tuple[int, float]]:
    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(send, range(count)))


def _report(what: str, answers: Sequence[tuple[int, float]], allowed: range) -> bool:
    """Prints how requests were answered; whether all were as they should be."""
    statuses = Counter(status for status, _ in answers)
    said = ", ".join(f"{n} x {s if s > 0 else 'wrong'}" for s, n in sorted(statuses.items()))
    print(f"{what}: {len(answers)} answered: {said}", flush=True)
    if seconds := [s for _, s in answers if s]:
        p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
        print(f"{what}: p50 {p50:.0f} ms, p99 {p99:.0f} ms", flush=True)
    return all(status in allowed for status in statuses)


if __name__ == "__main__":
    main()
