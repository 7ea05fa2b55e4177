"""`evolute thoughts learn`, over HTTP: what a teacher solved is kept and serves what follows."""

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from evolute.bench.thoughts.teacher import Teacher
from evolute.cli.main import app
from evolute.testing import HashingEmbedder
from evolute.types import ConfigError, RequestError


class Service:
    """An OpenAI-compatible endpoint: a teacher that chats, and embeddings. It counts, and gives up
    (status 400) after `patience` answers."""

    def __init__(self, noise=0.0, patience=10**9):
        self.asked, self.patience = 0, patience
        self._teacher, self._embedder = Teacher(noise), HashingEmbedder()

    def answer(self, path, body):
        if path.endswith("/embeddings"):
            rows = asyncio.run(self._embedder.embed(body["input"])).tolist()
            return {"data": [{"index": k, "embedding": row} for k, row in enumerate(rows)]}
        assert path.endswith("/chat/completions") and body["model"] == "teacher"
        self.asked += 1
        if self.asked > self.patience:
            return None
        said = body["messages"][0]["content"].rpartition("Problem:\n")[2]
        message = {"role": "assistant", "content": self._teacher._answer(said, 0)}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"choices": [choice], "usage": usage}


@pytest.fixture
def serve():
    servers = []

    def start(**how):
        service = Service(**how)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = service.answer(self.path, body)
                said = json.dumps(found or {"error": {"message": "had enough"}}).encode()
                self.send_response(200 if found else 400)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return service, f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def evolute(*words):
    words = list(map(str, words))
    with patch.object(sys, "argv", ["evolute", *words]):  # of a test's process it says little
        result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def learn(buffer, url, *more, task="game-of-24", count=3):
    return evolute(
        *("thoughts", "learn", task, "--buffer", buffer, "--count", count, "--json"),
        *("--role", f"solver={url}#teacher", "--unsafe-no-sandbox"),
        *("--set", f"embed_url={url}", "--set", "embed_model=hashes", *more),
    )


def templates(buffer):
    return evolute("thoughts", "list", "--buffer", buffer, "--json")["templates"]


def test_one_lesson_serves_all_that_follow(serve, tmp_path):
    (service, url), buffer = serve(), tmp_path / "t.db"
    first = learn(buffer, url)
    assert first == {"task": "game-of-24", "right": 3, "count": 3, "calls": 1, "tokens": 110,
                     "templates": 1}  # fmt: skip
    again = learn(buffer, url)
    assert (again["right"], again["calls"], again["tokens"], again["templates"]) == (3, 0, 0, 1)
    other = learn(buffer, url, task="dates")
    assert other["right"] == 3 and other["calls"] >= 1 and other["templates"] >= 2
    asked = service.asked
    rows = templates(buffer)
    assert len(rows) == other["templates"] and all(row["kind"] == "code" for row in rows)
    assert sum(row["success"] for row in rows) >= 9
    found = evolute(
        *("eval", "game-of-24", "--method", "thought_buffer", "--count", 4, "--json"),
        *("--role", f"solver={url}#teacher", "--unsafe-no-sandbox"),
        *("--set", f"method.path={buffer}", "--set", "method.grow=false"),
        *("--set", f"method.embed_url={url}", "--set", "method.embed_model=hashes"),
    )
    assert (found["accuracy"], found["n"], found["calls"]) == (1.0, 4, 0)
    assert service.asked == asked


def test_nothing_is_learnt_from_what_is_wrong_or_when_told_not_to(serve, tmp_path):
    wrong = learn(tmp_path / "a.db", serve(noise=1.0)[1], "--set", "attempts=2", count=2)
    assert (wrong["right"], wrong["calls"], wrong["templates"]) == (0, 4, 0)
    still = learn(tmp_path / "b.db", serve()[1], "--set", "grow=false", count=2)
    assert (still["right"], still["calls"], still["templates"]) == (2, 2, 0)
    seeded = learn(tmp_path / "c.db", serve()[1], "--set", "seeds=programs", count=2)
    assert (seeded["right"], seeded["calls"]) == (2, 0) and seeded["templates"] >= 7


def test_what_was_learnt_before_a_failure_stays(serve, tmp_path):
    buffer, url = tmp_path / "t.db", serve(patience=1)[1]
    learn(buffer, url)
    with pytest.raises(RequestError, match="had enough"):
        learn(buffer, url, task="shapes", count=2)
    assert len(templates(buffer)) == 1
    assert learn(buffer, url)["calls"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no task 'chess-960'"),
        (("--set", "use_above=2"), "use_above"),
        (("--set", "novelty=1"), "novelty"),
    ],
)
def test_mistakes_are_named_before_anything_is_asked(serve, tmp_path, words, said):
    service, url = serve()
    task = "game-of-24" if words else "chess-960"
    with pytest.raises(ConfigError, match=said):
        learn(tmp_path / "t.db", url, *words, task=task)
    assert service.asked == 0
