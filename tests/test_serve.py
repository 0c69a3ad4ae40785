"""The example's server: TensorFlow Serving's answers, and what it refuses."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_pictures import tiny_image_task
from tf_finetune.exports.load import load_model
from tf_finetune.exports.picture_model import export_pictures

FILE = Path(__file__).parent.parent / "examples" / "serve.py"
TEXTS = ["good film", "bad plot bad", "fine 👍 film\x00"]
PREDICT = "/v1/models/tiny:predict"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("serve", FILE)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.fixture(scope="module")
def server(finished):
    module = example()
    model = module.Model(finished.result.workdir / "export" / "saved_model", "tiny")
    made = module.Server(("127.0.0.1", 0), model, most_bytes=10_000, most_rows=8, quiet=True)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def connection(server):
    made = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    yield made
    made.close()


def ask(connection, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    body = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, body)
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(response.read())


def test_rows_and_columns_get_the_models_outputs(connection, finished):
    expected = load_model(finished.result.workdir).predict(TEXTS)
    names = list(load_model(finished.result.workdir).class_names)
    labels = [names[row.argmax()] for row in expected]
    status, found = ask(connection, "POST", PREDICT, {"instances": TEXTS})
    assert (status, [row["label"] for row in found["predictions"]]) == (200, labels)
    assert found["predictions"][0]["class_names"] == names
    shares = [row["probabilities"] for row in found["predictions"]]
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    rows = [{"text": text} for text in TEXTS]
    assert ask(connection, "POST", PREDICT, {"instances": rows}) == (200, found)
    for inputs in (TEXTS, {"text": TEXTS}):
        body = {"signature_name": "serving_default", "inputs": inputs}
        status, columns = ask(connection, "POST", "/v1/models/tiny/versions/1:predict", body)
        assert (status, columns["outputs"]["label"]) == (200, labels)
        np.testing.assert_allclose(columns["outputs"]["probabilities"], expected, atol=1e-5)


def test_status_and_metadata(connection):
    status, found = ask(connection, "GET", "/v1/models/tiny")
    assert (status, found["model_version_status"][0]["state"]) == (200, "AVAILABLE")
    status, found = ask(connection, "GET", "/v1/models/tiny/metadata")
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert found["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    assert signature["inputs"]["text"] == {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": "-1"}], "unknown_rank": False},
    }
    assert sorted(signature["outputs"]) == ["class_names", "label", "probabilities"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "no JSON"),
        (b"{'instances': 1}", 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[" * 9_000, 400, "no JSON"),
        ([], 400, 'either "instances" or "inputs"'),
        ({}, 400, 'either "instances" or "inputs"'),
        ({"instances": ["a"], "inputs": ["a"]}, 400, "either"),
        ({"instances": ["a"], "foo": 1}, 400, 'unknown key "foo"'),
        ({"instances": ["a"], "signature_name": "other"}, 400, "unknown signature_name"),
        ({"instances": []}, 400, "not empty"),
        ({"instances": "a"}, 400, "must be a list"),
        ({"instances": ["a", 1]}, 400, "instance 1 must be an object with text"),
        ({"instances": [{"text": "a", "other": "b"}]}, 400, "instance 0 must be"),
        ({"instances": [{"text": 1}]}, 400, '"text" of row 0 must be a string'),
        ({"instances": [{"text": ["a"]}]}, 400, '"text" of row 0 must be a string'),
        (b'{"instances": ["\\ud800"]}', 400, "surrogate"),
        ({"inputs": {"words": ["a"]}}, 400, '"inputs" must be an object with text'),
        ({"inputs": {"text": "a"}}, 400, "must hold lists"),
        ({"inputs": None}, 400, "must hold lists"),
        ({"instances": ["a"] * 9}, 413, "9 rows in one request; at most 8"),
        ({"instances": ["a" * 10_000]}, 413, "more than 10000 bytes"),
    ],
)
def test_a_bad_body_is_explained_and_the_next_request_is_served(connection, body, status, message):
    found, answer = ask(connection, "POST", PREDICT, body)
    assert found == status
    assert message in answer["error"]
    assert ask(connection, "POST", PREDICT, {"instances": ["good"]})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/tiny/versions/2:predict", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/", 404),
        ("GET", "/v1/models/tiny/../../etc/passwd", 404),
        ("GET", PREDICT, 405),
        ("POST", "/v1/models/tiny", 405),
        ("PUT", PREDICT, 405),
    ],
)
def test_another_address_or_method_is_refused(connection, method, path, status):
    body = {"instances": ["a"]} if method == "POST" else None
    found, answer = ask(connection, method, path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert ask(connection, "GET", "/v1/models/tiny")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        b"no http at all\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(server, sent):
    with socket.create_connection(server.server_address[:2], timeout=60) as plain:
        plain.sendall(sent)
        head = plain.makefile("rb").readline()
    assert head.split()[1].startswith(b"4")


def test_a_length_of_thousands_of_digits_is_too_much(server):
    with socket.create_connection(server.server_address[:2], timeout=60) as plain:
        head = b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: "
        plain.sendall(head + b"9" * 5000 + b"\r\n\r\n")
        plain.shutdown(socket.SHUT_WR)
        said = plain.makefile("rb").read()
    assert said.split()[1] == b"413"
    assert said.count(b"HTTP/1.1") == 1  # and the connection was closed


def test_what_comes_with_a_get_is_no_request(server):
    body = b"GET /v1/models/other HTTP/1.1\r\nHost: a\r\n\r\n"
    length = str(len(body)).encode()
    with socket.create_connection(server.server_address[:2], timeout=60) as plain:
        head = b"GET /v1/models/tiny HTTP/1.1\r\nHost: a\r\nContent-Length: "
        plain.sendall(head + length + b"\r\n\r\n" + body)
        said = plain.makefile("rb").read()
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.split()[1] == b"200"


def test_a_model_of_pictures_is_told_of(tmp_path):
    pixels = np.zeros((1, 32, 32, 3), "uint8")
    info = export_pictures(tiny_image_task(), tmp_path / "export", pixels)
    with pytest.raises(SystemExit, match="takes pictures, and this example serves texts"):
        example().Model(info.path.parent, "pictures")


def test_a_client_that_leaves_in_the_middle_harms_nobody(server, connection):
    with socket.create_connection(server.server_address[:2]) as plain:
        plain.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert ask(connection, "POST", PREDICT, {"instances": ["good"]})[0] == 200


def test_clients_at_a_time_get_their_own_answers(server, finished):
    expected = load_model(finished.result.workdir).predict(TEXTS)
    found: dict[int, list[float]] = {}

    def client(number: int) -> None:
        own = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
        answer = ask(own, "POST", PREDICT, {"instances": [TEXTS[number % 3]]})[1]
        found[number] = answer["predictions"][0]["probabilities"]
        own.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(24):
        np.testing.assert_allclose(found[number], expected[number % 3], atol=1e-5)


def test_a_length_that_is_there_twice_is_refused(server):
    for method, path in (("GET", "/v1/models/tiny"), ("POST", PREDICT)):
        with socket.create_connection(server.server_address[:2], timeout=60) as plain:
            lengths = "Content-Length: 0\r\nContent-Length: 50\r\n\r\n"
            plain.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lengths}".encode())
            plain.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nHost: a\r\n\r\n")
            said = plain.makefile("rb").read()
        assert said.count(b"HTTP/1.1 ") == 1


def test_requests_that_have_come_are_answered_before_the_server_ends(finished):
    module = example()
    model = module.Model(finished.result.workdir / "export" / "saved_model", "tiny")
    server = module.Server(("127.0.0.1", 0), model, quiet=True)
    threading.Thread(target=server.serve_forever).start()
    came, go, found, predict = threading.Event(), threading.Event(), [], model.predict

    def slowly(columns):
        came.set()
        go.wait(60)
        return predict(columns)

    model.predict = slowly

    def client():
        own = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
        found.append(ask(own, "POST", PREDICT, {"instances": ["good film"]})[0])
        own.close()

    asking = threading.Thread(target=client)
    asking.start()
    assert came.wait(60)
    server.shutdown()
    ending = threading.Thread(target=server.finish)
    ending.start()
    ending.join(0.2)
    assert ending.is_alive()
    go.set()
    ending.join(60)
    asking.join(60)
    server.server_close()
    assert found == [200]


def test_a_response_may_end_within_a_character():
    assert example()._plain([["fin\u00e9".encode()[:-1], 1.5]]) == [["fin", 1.5]]


@pytest.mark.parametrize("name", ["a/b", "a b", "a:b", ""])
def test_a_name_that_no_address_holds_is_refused(name, monkeypatch, capsys, tmp_path):
    module = example()
    flags = [f"--model_base_path={tmp_path}", f"--model_name={name}"]
    monkeypatch.setattr("sys.argv", ["serve.py", *flags])
    with pytest.raises(SystemExit):
        module.main()
    assert "--model_name may hold letters" in capsys.readouterr().err


def test_a_port_in_use_is_told_in_a_line(server, finished, monkeypatch):
    port = server.server_address[1]
    folder = finished.result.workdir / "export" / "saved_model"
    flags = [f"--model_base_path={folder}", f"--rest_api_port={port}"]
    monkeypatch.setattr("sys.argv", ["serve.py", *flags])
    with pytest.raises(SystemExit, match=f"127.0.0.1:{port}: Address already in use"):
        example().main()
