"""Descriptions from a language model behind an OpenAI-compatible server (``POST …/chat/completions``).

One request per class. What was received is kept at once in a file beside the output, so that nothing is asked or paid
for twice. The key comes from the environment and goes into one request header, nowhere else.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.errors import Problems, UserError
from anprompt.files import PART, write_text
from anprompt.text.bank import DescriptionBank

KEYS = ("ANPROMPT_API_KEY", "OPENAI_API_KEY")
PATIENCE = 600  # seconds: whoever asks for a longer wait is told to come back
LARGEST = 2**22  # bytes of an answer
CHARACTERS, SENTENCE = 4, 20  # per token, and tokens per sentence, for the estimate
SYSTEM = (
    "You describe how things look in photos, for an image classifier that compares photos with sentences. "
    "Answer with one JSON object and nothing else."
)
QUESTION = (
    'Describe what "{name}" looks like in a photo. Return {{"main": […], "noise": […]}} with {count} sentences in each '
    'list. "main": short sentences about visible features (shape, colour, parts, texture, surroundings), each naming '
    '"{name}" word for word. "noise": the same content worded as other people would, each naming "{name}" too. At most '
    "25 words a sentence, no numbering."
)
Progress = Callable[[int, int], None]  # classes done, all


class _Retry(Exception):
    """Worth another try. answered: the server works, but what it said is of no use. wait: seconds it asks for."""

    def __init__(self, why: str, *, answered: bool = False, wait: float | None = None) -> None:
        super().__init__(why)
        self.answered, self.wait = answered, wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another place."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Server:
    """Where and how to ask.

    url: the address that ``/chat/completions`` is appended to, such as ``http://localhost:8000/v1``. key: never shown.
    rate: requests per minute, or None. tries: per class. timeout, backoff: seconds; the pause before another try is
    ``backoff`` × 1, 2, 4, … up to a minute, or what the server's Retry-After says.
    """

    url: str
    model: str
    key: str | None = None
    rate: float | None = None
    tries: int = 6
    timeout: float = 120.0
    backoff: float = 1.0
    wait: Callable[[float], None] = time.sleep

    def __repr__(self) -> str:
        return f"Server({self.url}, {self.model})"

    @property
    def unprotected(self) -> bool:
        """Whether a key would travel in the clear to another machine."""
        parts = urllib.parse.urlsplit(self.url)
        return bool(self.key) and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def key_from_environment() -> str | None:
    """The key in ``ANPROMPT_API_KEY`` or ``OPENAI_API_KEY``; local servers need none."""
    return next((os.environ[name].strip() for name in KEYS if os.environ.get(name, "").strip()), None)


def check_address(url: str) -> str:
    """Return ``url`` without a slash at its end; :class:`UserError` if it is none, or holds a key or a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"'{url}' is no server address; it looks like http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query:
        raise UserError(f"A server address holds no key or password: put the key into {' or '.join(KEYS)}.")
    return url.rstrip("/")


@dataclass(frozen=True)
class Estimate:
    """What a run asks for. Tokens are a guess from the length of question and answer; price by million tokens."""

    requests: int
    tokens_in: int
    tokens_out: int
    price: float | None


def price_of(tokens_in: int, tokens_out: int, price_in: float | None, price_out: float | None) -> float | None:
    """In the currency of the two prices per million tokens; None if neither is known."""
    if price_in is None and price_out is None:
        return None
    return (tokens_in * (price_in or 0) + tokens_out * (price_out or 0)) / 1e6


def estimate(
    names: Sequence[str], count: int, price_in: float | None = None, price_out: float | None = None
) -> Estimate:
    """What asking about ``names`` will take, ``count`` main and ``count`` noise sentences each, if nothing fails."""
    tokens_in = sum((len(SYSTEM) + len(QUESTION) + 3 * len(name)) // CHARACTERS for name in names)
    tokens_out = len(names) * 2 * count * SENTENCE
    return Estimate(len(names), tokens_in, tokens_out, price_of(tokens_in, tokens_out, price_in, price_out))


def part_of(out: Path) -> Path:
    """Where the answers for ``out`` are kept until all are there."""
    return out.with_name(out.name + PART)


def received(out: Path, model: str, count: int) -> dict[str, dict[str, Any]]:
    """The answers that an earlier run for ``out`` kept, by class. A line that was being written counts as absent.

    Raises :class:`UserError` if they are of another model or of another number of sentences.
    """
    part, kept = part_of(out), dict[str, dict[str, Any]]()
    if not part.exists():
        return kept
    for line in part.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            answer = json.loads(line)
            name, made = answer["class"], (answer["model"], answer["count"])
            _checked(answer, count)
        except (ValueError, KeyError, TypeError):
            continue
        if made != (model, count):
            raise UserError(
                f"'{part}' holds answers of '{made[0]}' with {made[1]} sentences: give the same --model and --count to "
                "go on, or remove the file."
            )
        kept[name] = answer
    return kept


class _Client:
    """Asks one class after the other, at the agreed rate, patiently."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.began = -float("inf")

    def answer(self, name: str, count: int) -> dict[str, Any]:
        """Main and noise sentences and tokens; :class:`_Retry` after the last try, :class:`UserError` if none helps."""
        server = self.server
        for attempt in range(server.tries):
            if server.rate is not None and (early := self.began + 60 / server.rate - time.monotonic()) > 0:
                server.wait(early)
            self.began = time.monotonic()
            try:
                return self._once(name, count)
            except _Retry as error:
                pause = min(60.0, server.backoff * 2**attempt) if error.wait is None else error.wait
                if pause > PATIENCE:
                    raise UserError(f"The server asks to wait for {pause:.0f} s: {error}.") from None
                if attempt + 1 == server.tries:
                    raise
                server.wait(pause)
        raise AssertionError("a server is tried at least once")

    def _once(self, name: str, count: int) -> dict[str, Any]:
        server = self.server
        question = QUESTION.format(name=name, count=count)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        headers = {"Content-Type": "application/json"}
        if server.key:
            headers["Authorization"] = f"Bearer {server.key}"
        body = json.dumps({"model": server.model, "messages": messages}).encode()
        request = urllib.request.Request(f"{server.url}/chat/completions", body, headers)
        try:
            with self.opener.open(request, timeout=server.timeout) as response:
                content = response.read(LARGEST)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:  # refused, dropped or cut connections, time-outs
            reason = getattr(error, "reason", error)
            words = "no answer in time" if isinstance(reason, TimeoutError) else self._safe(str(reason))
            raise _Retry(words or type(error).__name__) from None
        try:
            document = json.loads(content)
            text = document["choices"][0]["message"]["content"]
            usage = document.get("usage") or {}
            sentences = json.loads(text[text.index("{") : text.rindex("}") + 1])  # some put it into a code block
            tokens = {f"tokens_{to}": int(usage.get(f"{of}_tokens", 0)) for to, of in
                      (("in", "prompt"), ("out", "completion"))}  # fmt: skip
            return {**_checked(sentences, count), **tokens}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Retry("its answer is not the JSON that was asked for", answered=True) from None

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status means: worth another try, or for the user to mend."""
        with error:
            body = error.read(LARGEST)
        if error.code in (408, 409, 429) or error.code >= 500:
            return _Retry(f"HTTP {error.code}", wait=_retry_after(error.headers.get("Retry-After")))
        where = f"The server {self.server.url} refuses (HTTP {error.code})"
        if error.code in (401, 403):  # its message may repeat the key
            return UserError(f"{where}: the key is missing or not accepted; it is read from {' or '.join(KEYS)}.")
        if 300 <= error.code < 400:
            return UserError(f"{where}: it sends us to another address; give that one as --server if you trust it.")
        try:
            said = str(json.loads(body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            said = "check the address and the name of the model"
        return UserError(f"{where}: {self._safe(said)}")

    def _safe(self, text: str) -> str:
        """Foreign text without the key, control characters or excess length."""
        text = text.replace(self.server.key, "…") if self.server.key else text
        return _printable(text)[:200]


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _printable(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _checked(answer: dict[str, Any], count: int) -> dict[str, list[str]]:
    """The two lists of sentences of an answer, at most ``count`` each; ``ValueError`` if it has none."""
    lists: dict[str, list[str]] = {}
    for kind in ("main", "noise"):
        given = answer[kind]
        if not isinstance(given, list) or not all(isinstance(sentence, str) for sentence in given):
            raise ValueError(f"'{kind}' is no list of sentences")
        lists[kind] = [plain for sentence in given if (plain := _printable(sentence))][:count]
        if not lists[kind]:
            raise ValueError(f"'{kind}' is empty")
    return lists


def describe(
    server: Server, names: Sequence[str], count: int, out: Path, progress: Progress | None = None
) -> tuple[DescriptionBank, dict[str, int]]:
    """Ask about every class of ``names`` that no earlier run for ``out`` has an answer for.

    Returns the bank and what all the answers took: ``requests``, ``tokens_in``, ``tokens_out`` (as the server counts).
    The caller removes ``part_of(out)`` after writing the bank.
    Raises :class:`UserError` when the server refuses, or gives no usable answer in ``server.tries`` tries; all that was
    received by then is kept, and the same call goes on from there.
    """
    kept, part, client = received(out, server.model, count), part_of(out), _Client(server)
    if part.exists():  # without a half-written line at its end, to which the next would be glued
        write_text(part, "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in kept.values()))
    left = [name for name in dict.fromkeys(names) if name not in kept]
    problems = Problems("The server gave no usable answer for these classes:")
    for name in left:
        try:
            answer = client.answer(name, count)
        except UserError as error:
            problems.add(str(error))
            break
        except _Retry as error:
            problems.add(f"'{name}': {error} ({server.tries} tries)")
            if error.answered:
                continue
            break  # it does not work at all
        kept[name] = {"class": name, "model": server.model, "count": count, **answer}
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept[name], ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if progress is not None:
            progress(sum(name in kept for name in names), len(names))
    if problems:
        there = sum(name in kept for name in names)
        raise UserError(
            f"{problems.message()}\n{there} of {len(names)} classes are described"
            + (f" and kept in '{part}': the same command goes on from there." if there else ".")
        )
    main, noise = ({name: kept[name][kind] for name in names} for kind in ("main", "noise"))
    used = {key: sum(kept[name][key] for name in names) for key in ("tokens_in", "tokens_out")}
    return DescriptionBank(main, noise, f"the model {server.model}"), {"requests": len(names), **used}
