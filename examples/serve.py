"""Serves an exported SavedModel over HTTP, in TensorFlow Serving's REST form.

    python examples/serve.py --model_base_path=runs/mine/export/saved_model --model_name=reviews
    curl -d '{"instances": ["A warm, funny film."]}' localhost:8501/v1/models/reviews:predict

It needs TensorFlow and TensorFlow Text alone, and shows what a client of TensorFlow Serving
sees; for many users run that itself, which takes the same folder and the same requests. There
is no authentication: it listens on 127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_NAME = r"[\w.~-]+"  # what stands in an address as it is
_PATH = re.compile(rf"/v1/models/({_NAME})(?:/versions/(\d+))?(/metadata|:predict)?", re.ASCII)
_SIGNATURE = "serving_default"
_DIGITS = 15


class BadRequest(Exception):
    """What the client did wrong, and the status for it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Model:
    """The newest version in a folder of versions, as TensorFlow Serving would load it.

    Args:
        base_path: holds a folder for each version, whose name is a number.
        name: as in the address.
        at_a_time: batches that go through the network at a time; others wait.
    """

    def __init__(self, base_path: Path, name: str, at_a_time: int = os.cpu_count() or 1) -> None:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401 - registers the tokenizer's operations

        versions = [int(p.name) for p in base_path.glob("*/") if p.name.isdigit()]
        if not versions:
            raise SystemExit(f'"{base_path}" holds no version, as 1/saved_model.pb.')
        self.name, self.version = name, str(max(versions))
        self._loaded = tf.saved_model.load(str(base_path / self.version))
        self._serve = self._loaded.signatures[_SIGNATURE]
        self.inputs = sorted(self._serve.structured_input_signature[1])
        self.outputs = sorted(self._serve.structured_outputs)
        if "image_bytes" in self.inputs:
            raise SystemExit(
                f'"{base_path}" takes pictures, and this example serves texts. Use TensorFlow '
                'Serving, which takes {"instances": [{"image_bytes": {"b64": "..."}}]}.'
            )
        self._free = threading.BoundedSemaphore(at_a_time)
        self.predict({name: ["warm up"] for name in self.inputs})

    def predict(self, columns: dict[str, list[str]]) -> dict[str, list[Any]]:
        """Outputs by name, for a list of texts for each input."""
        import tensorflow as tf

        tensors = {name: tf.constant(texts, tf.string) for name, texts in columns.items()}
        with self._free:
            found = {name: values.numpy() for name, values in self._serve(**tensors).items()}
        return {name: _plain(values.tolist()) for name, values in found.items()}

    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs, as TensorFlow Serving describes them."""

        def described(specs: dict[str, Any]) -> dict[str, Any]:
            return {
                name: {
                    "dtype": f"DT_{spec.dtype.name.upper()}",
                    "tensor_shape": {
                        "dim": [{"size": str(-1 if n is None else n)} for n in spec.shape],
                        "unknown_rank": False,
                    },
                }
                for name, spec in specs.items()
            }

        signature = {
            "inputs": described(self._serve.structured_input_signature[1]),
            "outputs": described(self._serve.structured_outputs),
            "method_name": "tensorflow/serving/predict",
        }
        return {
            "model_spec": {"name": self.name, "signature_name": "", "version": self.version},
            "metadata": {"signature_def": {"signature_def": {_SIGNATURE: signature}}},
        }


def _plain(values: Any) -> Any:
    """Nested lists with strings in place of bytes."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    # A response may end within a character.
    return values.decode(errors="ignore") if isinstance(values, bytes) else values


def answer(model: Model, body: bytes, most_rows: int) -> dict[str, Any]:
    """The answer to a predict request, in rows or in columns as it was asked.

    Raises:
        BadRequest: if the request is none that TensorFlow Serving would take.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise BadRequest('the body must be an object with either "instances" or "inputs"')
    if strange := sorted(set(request) - {"instances", "inputs", "signature_name"}):
        raise BadRequest(f'unknown key "{strange[0]}" in the body')
    if request.get("signature_name", _SIGNATURE) != _SIGNATURE:
        raise BadRequest(f'unknown signature_name; there is "{_SIGNATURE}"')
    by_row = "instances" in request
    given = request["instances"] if by_row else request["inputs"]
    columns = _rows(given, model.inputs) if by_row else _columns(given, model.inputs)
    _check(columns, most_rows)
    found = model.predict(columns)
    if not by_row:
        return {"outputs": found if len(found) > 1 else next(iter(found.values()))}
    if len(found) == 1:
        return {"predictions": next(iter(found.values()))}
    rows = zip(*found.values(), strict=True)
    return {"predictions": [dict(zip(found, row, strict=True)) for row in rows]}


def _rows(given: Any, names: list[str]) -> dict[str, list[Any]]:
    if not isinstance(given, list) or not given:
        raise BadRequest('"instances" must be a list that is not empty')
    rows = [{names[0]: row} if len(names) == 1 and isinstance(row, str) else row for row in given]
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or sorted(row) != names:
            raise BadRequest(f"instance {number} must be an object with {', '.join(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _columns(given: Any, names: list[str]) -> dict[str, list[Any]]:
    columns = {names[0]: given} if len(names) == 1 and not isinstance(given, dict) else given
    if not isinstance(columns, dict) or sorted(columns) != names:
        raise BadRequest(f'"inputs" must be an object with {", ".join(names)}')
    if not all(isinstance(column, list) and column for column in columns.values()):
        raise BadRequest('"inputs" must hold lists that are not empty')
    if len({len(column) for column in columns.values()}) > 1:
        raise BadRequest('the lists in "inputs" must be of one length')
    return columns


def _check(columns: dict[str, list[Any]], most_rows: int) -> None:
    for name, column in columns.items():
        if len(column) > most_rows:
            raise BadRequest(f"{len(column)} rows in one request; at most {most_rows}", 413)
        for number, text in enumerate(column):
            if not isinstance(text, str):
                raise BadRequest(f'"{name}" of row {number} must be a string')
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise BadRequest(f'"{name}" of row {number} has half a character (a surrogate)')


class Handler(BaseHTTPRequestHandler):
    """One connection; the server has `model`, `most_bytes`, `most_rows` and `quiet`."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds without a byte: a client may not keep a thread for ever

    def do_GET(self) -> None:
        """Status, or metadata."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """A prediction."""
        self._answer(self._post)

    def _get(self) -> dict[str, Any]:
        lengths = self.headers.get_all("Content-Length", ["0"])
        if self.headers.get("Transfer-Encoding") or lengths != ["0"]:
            self.close_connection = True  # its body would be taken for the next request
        kind = self._kind()
        if kind == ":predict":
            raise BadRequest("predictions are asked for by POST", 405)
        if kind:
            return self.server.model.metadata()
        status = {"error_code": "OK", "error_message": ""}
        version = self.server.model.version
        return {
            "model_version_status": [{"version": version, "state": "AVAILABLE", "status": status}]
        }

    def _post(self) -> dict[str, Any]:
        # Read first: what is left of a body would be taken for the next request.
        body = self._body()
        if self._kind() != ":predict":
            raise BadRequest("only :predict is asked for by POST", 405)
        return answer(self.server.model, body, self.server.most_rows)

    def _kind(self) -> str | None:
        match = _PATH.fullmatch(self.path.partition("?")[0])
        if not match:
            raise BadRequest(f"unknown address; there is /v1/models/{self.server.model.name}", 404)
        name, version, kind = match.groups()
        model = self.server.model
        if name != model.name or version not in (None, model.version):
            raise BadRequest(
                f"unknown model or version; there is {model.name}/{model.version}", 404
            )
        return kind

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise BadRequest("a body in chunks is not taken; send Content-Length", 411)
        if len(self.headers.get_all("Content-Length", [])) > 1:
            self.close_connection = True
            raise BadRequest("Content-Length is there more than once")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise BadRequest("Content-Length is missing or no number", 411)
        # More digits than any length has are no number for Python either.
        length = length.lstrip("0")[:_DIGITS] or "0"
        if int(length) > self.server.most_bytes:
            # A client that is still sending would not read the answer.
            left = min(int(length), 8 * self.server.most_bytes)
            while left and (chunk := self.rfile.read(min(left, 1 << 16))):
                left -= len(chunk)
            self.close_connection = True
            raise BadRequest(f"the body has more than {self.server.most_bytes} bytes", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise BadRequest("the body is shorter than Content-Length")
        return body

    def _answer(self, make: Any) -> None:
        with self.server.working():
            self._answered(make)

    def _answered(self, make: Any) -> None:
        try:
            status, made = 200, make()
        except BadRequest as error:
            status, made = error.status, {"error": str(error)}
        except TimeoutError:
            self.close_connection = True
            return
        except Exception as error:
            self.log_error("%s", repr(error))
            status, made = 500, {"error": "the server failed"}
        with contextlib.suppress(ConnectionError):  # the client has left
            self._send(status, made)

    def _send(self, status: int, made: dict[str, Any]) -> None:
        content = json.dumps(made).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses: another method, or no HTTP."""
        self.close_connection = True
        self.request_version = self.protocol_version  # else an answer without a head
        self._send(code if code != 501 else 405, {"error": message or "not understood"})

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, unless the server is quiet."""
        if not self.server.quiet:
            super().log_message(format, *args)


class Server(ThreadingHTTPServer):
    """A thread for each connection.

    Args:
        address: host and port; port 0 takes any that is free.
        model: to serve.
        most_bytes: of a request's body.
        most_rows: of a request.
        quiet: log no requests.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        model: Model,
        *,
        most_bytes: int = 1_000_000,
        most_rows: int = 256,
        quiet: bool = False,
    ) -> None:
        super().__init__(address, Handler)
        self.model, self.most_bytes, self.most_rows = model, most_bytes, most_rows
        self.quiet, self._at_work, self._changed = quiet, 0, threading.Condition()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Within it a request is answered."""
        with self._changed:
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def finish(self, seconds: float = 30) -> None:
        """Waits until requests that have come are answered, not for clients that send none."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work, seconds)


def main() -> None:
    """Serves until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model_base_path", type=Path, required=True)
    parser.add_argument("--model_name", default="default")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--rest_api_port", type=int, default=8501)
    parser.add_argument("--quiet", action="store_true", help="log no requests")
    given = parser.parse_args()
    if not re.fullmatch(_NAME, given.model_name, re.ASCII):
        parser.error("--model_name may hold letters, digits and ._~- alone: it is in the address")
    model = Model(given.model_base_path, given.model_name)
    try:
        server = Server((given.host, given.rest_api_port), model, quiet=given.quiet)
    except OSError as error:
        raise SystemExit(f"{given.host}:{given.rest_api_port}: {error.strerror}.") from None
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    host, port = server.server_address[:2]
    print(f"http://{host!s}:{port}/v1/models/{model.name}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.finish()
        server.server_close()


if __name__ == "__main__":
    main()
