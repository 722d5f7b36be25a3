"""``anprompt describe``: offline, and from a server that fails in every way that servers do."""

from __future__ import annotations

import datetime
import email.utils
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from anprompt.errors import UserError
from anprompt.text import load_bank
from anprompt.text.server import Server, check_address, describe, estimate, part_of, received
from helpers_cli import Cli

KEY = "sk-test-0123456789-secret"
NAMES = ["red fox", "grey wolf", "brown bear", "otter"]
Answer = Callable[[BaseHTTPRequestHandler, str], None]


def send(handler: BaseHTTPRequestHandler, status: int, body: str, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def chat(content: str) -> str:
    usage = {"prompt_tokens": 100, "completion_tokens": 50}
    return json.dumps({"choices": [{"message": {"content": content}}], "usage": usage})


def good(handler: BaseHTTPRequestHandler, name: str) -> None:
    sentences = {"main": [f"a {name} with fur", f"the {name}\x1b[31m runs"], "noise": [f"one furry {name}"]}
    send(handler, 200, chat(f"```json\n{json.dumps(sentences)}\n```"))


def status(code: int, message: str = "no", **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message}})
    return lambda handler, _: send(handler, code, body, **headers)


def says(content: str) -> Answer:
    return lambda handler, _: send(handler, 200, chat(content))


def cut(handler: BaseHTTPRequestHandler, _: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.close()


def dropped(handler: BaseHTTPRequestHandler, _: str) -> None:
    handler.connection.close()


def slow(handler: BaseHTTPRequestHandler, name: str) -> None:
    time.sleep(0.6)
    good(handler, name)


class Model:
    """A server on loopback. ``script``: what it does with the first requests about a class; then it answers well."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.keys: set[str | None] = set()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = request["messages"][-1]["content"]
                name = next(name for name in NAMES if f'"{name}"' in question)
                model.asked.append(name)
                model.keys.add(self.headers["Authorization"])
                assert self.path == "/v1/chat/completions"
                waiting = model.script.get(name, [])
                (waiting.pop(0) if waiting else good)(self, name)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ANPROMPT_API_KEY", KEY)
    made = Model()
    yield made
    made.http.shutdown()
    made.http.server_close()


class Ask:
    """``describe`` with short pauses that are noted instead of waited for."""

    def __init__(self, url: str, out: Path) -> None:
        self.url, self.out, self.pauses = url, out, list[float]()

    def __call__(self, names: list[str] = NAMES, **settings: Any) -> Any:
        server = Server(self.url, "small", KEY, timeout=0.3, wait=self.pauses.append, **settings)
        return describe(server, names, 2, self.out)


@pytest.fixture
def ask(model: Model, tmp_path: Path) -> Ask:
    return Ask(model.url, tmp_path / "bank.json")


def secret_anywhere(folder: Path) -> bool:
    return any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_server_that_fails_in_every_way(model: Model, ask: Ask, tmp_path: Path) -> None:
    date = email.utils.format_datetime(
        datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30), usegmt=True
    )
    model.script = {
        "red fox": [status(429, Retry_After="7"), status(500), status(503, Retry_After=date)],
        "grey wolf": [slow, dropped, cut],
        "brown bear": [says("no JSON"), says('{"main": ["a"]}'), says('{"main": [], "noise": ["b"]}'),
                       lambda handler, _: send(handler, 200, "<html>")],
    }  # fmt: skip
    bank, used = ask()
    assert list(bank.main) == list(bank.noise) == NAMES
    assert bank.main["otter"] == ["a otter with fur", "the otter [31m runs"]  # no control characters
    assert bank.noise["red fox"] == ["one furry red fox"]
    assert model.asked == ["red fox"] * 4 + ["grey wolf"] * 4 + ["brown bear"] * 5 + ["otter"]
    assert ask.pauses[:2] == [7, 2]  # Retry-After, then 1 · 2¹
    assert 25 < ask.pauses[2] <= 30  # Retry-After as a date
    assert ask.pauses[3:] == [1, 2, 4, 1, 2, 4, 8]
    assert used == {"requests": 4, "tokens_in": 400, "tokens_out": 200}
    assert model.keys == {f"Bearer {KEY}"}
    assert not secret_anywhere(tmp_path)


def test_nothing_received_is_lost_or_asked_again(model: Model, ask: Ask, tmp_path: Path) -> None:
    model.script = {"brown bear": [status(500)] * 6}
    with pytest.raises(UserError) as caught:
        ask()
    assert "'brown bear': HTTP 500 (6 tries)" in str(caught.value)
    assert "2 of 4 classes are described and kept in" in str(caught.value)
    assert "otter" not in model.asked  # a server that is down is not asked on
    with part_of(ask.out).open("a") as file:
        file.write('{"class": "brown bear", "model": "small", "cou')  # as after a power cut
    model.asked.clear()
    bank, _ = ask()
    assert model.asked == ["brown bear", "otter"]
    assert list(bank.main) == NAMES
    assert list(received(ask.out, "small", 2)) == NAMES
    model.asked.clear()
    assert ask()[0] == bank
    assert model.asked == []
    with pytest.raises(UserError, match="holds answers of 'small' with 2 sentences"):
        describe(Server(model.url, "large"), NAMES, 2, ask.out)
    assert not secret_anywhere(tmp_path)


def test_a_class_without_a_usable_answer_does_not_stop_the_others(model: Model, ask: Ask) -> None:
    model.script = {"red fox": [says("I cannot do that.")] * 6}
    with pytest.raises(
        UserError, match=r"'red fox': its answer is not the JSON that was asked for \(6 tries\)\n3 of 4"
    ):
        ask()
    assert list(received(ask.out, "small", 2)) == NAMES[1:]


@pytest.mark.parametrize(("answer", "words"), [
    (status(401, f"Incorrect API key {KEY}"), r"HTTP 401\): the key is missing or not accepted; it is read from"),
    (status(404, f"no model for {KEY}"), r"HTTP 404\): no model for …"),
    (status(400), r"HTTP 400\): no"),
    (status(302, Location="http://127.0.0.1:9/"), r"HTTP 302\): it sends us to another address"),
    (status(429, Retry_After="9999"), "asks to wait for 9999 s: HTTP 429"),
])  # fmt: skip
def test_what_no_other_try_can_help(answer: Answer, words: str, model: Model, ask: Ask) -> None:
    model.script = {"red fox": [answer]}
    with pytest.raises(UserError, match=words) as caught:
        ask()
    assert model.asked == ["red fox"]
    assert KEY not in str(caught.value)
    assert "0 of 4 classes" in str(caught.value)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"'otter': .*refused.*\(2 tries\)"):
        Ask("http://127.0.0.1:9/v1", tmp_path / "bank.json")(["otter"], tries=2)


def test_the_agreed_rate_is_kept(model: Model, ask: Ask) -> None:
    ask(rate=30)
    assert len(ask.pauses) == 3
    assert all(1.5 < pause <= 2 for pause in ask.pauses)


def test_addresses_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_address("https://host/v1/") == "https://host/v1"
    for wrong in ("localhost:8000", "ftp://host/v1", "http://", "http://[/"):
        with pytest.raises(UserError, match="is no server address"):
            check_address(wrong)
    with pytest.raises(UserError, match="holds no key or password"):
        check_address("http://me:word@host/v1")
    assert KEY not in repr(Server("http://host/v1", "m", KEY))
    assert Server("http://host/v1", "m", KEY).unprotected
    assert not Server("https://host/v1", "m", KEY).unprotected
    assert not Server("http://127.0.0.1/v1", "m", KEY).unprotected


def test_the_estimate() -> None:
    plan = estimate(NAMES, 10, 2.0, 8.0)
    assert plan.requests == 4
    assert plan.tokens_out == 4 * 2 * 10 * 20
    assert plan.price == pytest.approx((2 * plan.tokens_in + 8 * plan.tokens_out) / 1e6)
    assert estimate(NAMES, 10).price is None


# ---- the command


def test_describe_from_a_server(model: Model, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeffred fox\ngrey_wolf\n\notter\n")
    (tmp_path / "mine.csv").write_text("class,sentence\nRed fox,My fox.\nred pox,Not one.\nRed fox,my  fox.\n")
    model.script = {"otter": [status(429, Retry_After="0")]}
    out = tmp_path / "bank.yaml"
    line = f"describe {tmp_path}/classes.txt --texts {tmp_path}/mine.csv --server {model.url} --model small --count 2"
    code, printed, err = cli(*line.split(), "--out", out, "--price-in", 1, "--price-out", 2)
    assert code == 0, err
    assert "note: 2 requests, about " in err
    assert ", price about 0.000" in err
    assert "2 answers; the server counted 200 tokens sent and 100 received, price 0.0004" in printed
    for words in (
        "3 classes, 7 main and 2 noise sentences",
        "1 keys are no class and left out: red pox (near: red fox)",
        "3 sentences do not name their class",
        "1 sentences are there twice and kept once: red fox: my  fox.",
    ):
        assert words in printed
    bank = load_bank(out)
    assert bank.main["red fox"] == ["My fox."]
    assert list(bank.main) == ["red fox", "grey wolf", "otter"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bank.yaml", "classes.txt", "mine.csv"]
    assert not secret_anywhere(tmp_path)
    assert KEY not in printed + err


def test_only_the_estimate(model: Model, cli: Cli, tmp_path: Path) -> None:
    line = (
        "describe",
        "red fox,otter",
        "--server",
        model.url,
        "--model",
        "m",
        "--estimate",
        "--out",
        tmp_path / "b.json",
    )
    assert cli(*line).out.startswith("2 requests, about ")
    assert cli(*line, "--json").document["estimate"]["requests"] == 2
    assert model.asked == []
    assert not list(tmp_path.iterdir())


def test_an_interrupted_command_goes_on(model: Model, cli: Cli, tmp_path: Path) -> None:
    line = ("describe", "red fox,otter", "--server", model.url, "--model", "m", "--out", tmp_path / "b.json", "--json")
    model.script = {"otter": [status(403, KEY)]}
    code, out, err = cli(*line)
    assert (code, out) == (2, "")
    assert "1 of 2 classes are described and kept in" in err
    assert not (tmp_path / "b.json").exists()
    assert not secret_anywhere(tmp_path)
    document = cli(*line).document
    assert document["estimate"]["kept"] == 1
    assert model.asked == ["red fox", "otter", "otter"]
    assert list(load_bank(tmp_path / "b.json").main) == ["red fox", "otter"]
    assert KEY not in err + json.dumps(document)
