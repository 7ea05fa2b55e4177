"""The same programs on a server of ours, on OpenAI's API, and on servers that misbehave."""

import asyncio
import json
import socket
import threading

import pytest

import evolute.lang as sgl
from evolute.engine import Engine
from evolute.lang.account import Spent
from evolute.lang.backend import Made, Prompt, Text, TextBackend, TextRequest
from evolute.lang.endpoints import OnTokens
from evolute.lang.endpoints.transport import Transport
from evolute.lang.interpreter.bridge import blocking
from evolute.server import create_app, serve_in_thread
from evolute.testing import ScriptedBackend
from evolute.types import (
    BackendError,
    BadGrammar,
    NotSupported,
    OutOfCapacity,
    ProgramError,
    RequestError,
    SamplingParams,
)

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Héllo"}]


@pytest.fixture(scope="module")
def served():
    with Engine("tiny", page_size=4) as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        yield engine, server.url
        server.stop()


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Connections of plain runs are closed at the end of a test, as `backend.close()` does."""
    made, begin = [], Transport.__init__

    def note(self, *args, **settings):
        begin(self, *args, **settings)
        made.append(self)

    monkeypatch.setattr(Transport, "__init__", note)
    yield
    for transport in made:
        blocking(transport.aclose())


def ask(backend, coroutine_of):
    async def run():
        try:
            return await coroutine_of(backend)
        finally:
            await backend.aclose()

    return asyncio.run(run())


def test_a_server_does_what_the_engine_does(served):
    engine, url = served
    sampling = SamplingParams(max_new_tokens=6, temperature=0, n=2, top_logprobs=2)
    prompt = Prompt.of("a prompt ").then(Made("xy", (120, 121))).then(Text(" and more"))

    async def all_of(backend):
        reply = await backend.generate(TextRequest(prompt, sampling))
        ids = await backend.encode(prompt)
        scores, spent = await backend.score(ids[:4], [ids[4:7], ids[4:6], ()])
        return {
            "texts": [o.text for o in reply.outputs],
            "tokens": [o.token_ids for o in reply.outputs],
            "top": [[t.token_id for row in o.top_logprobs for t in row] for o in reply.outputs],
            "finish": [(o.finish_reason, o.matched_stop) for o in reply.outputs],
            "ids": ids,
            "score calls": (spent.calls, spent.prompt_tokens),
            "decoded": await backend.decode(ids),
            "chat": await backend.render(MESSAGES, add_generation_prompt=True),
            "closed": await backend.render(MESSAGES),
            "open": await backend.render(MESSAGES, is_open=True),
            "hint": (await backend.prepare(prompt)).prompt_tokens,
        }, [*(o.logprobs for o in reply.outputs), *scores]

    remote, local = sgl.RuntimeEndpoint(url + "/v1"), OnTokens(engine)
    assert isinstance(remote, TextBackend)
    told, logprobs = ask(remote, all_of)
    mine, my_logprobs = ask(local, all_of)
    assert told == mine
    assert [len(one) for one in logprobs] == [6, 6, 3, 2, 0]
    for one, other in zip(logprobs, my_logprobs):
        assert one == pytest.approx(other, abs=1e-4)


@sgl.function
def talk(s):
    s += sgl.system("Be short.") + sgl.user("Hello")
    s += sgl.assistant("So " + sgl.gen("a", max_tokens=6))
    forks = s.fork(2)
    for f, word in zip(forks, ("why", "how")):
        f += sgl.user(word) + sgl.assistant(sgl.gen("b", max_tokens=5, stop="e"))
    forks.join()
    s += sgl.user("Sure?") + sgl.assistant(sgl.select("sure", ["yes", "no"]))


@pytest.mark.parametrize("stream", [False, True])
def test_a_program_is_the_same_on_the_server(served, stream):
    engine, url = served
    states = [
        talk.run(backend=backend, temperature=0, stream=stream)
        for backend in (engine, sgl.RuntimeEndpoint(url))
    ]
    one, other = states
    assert other.error() is None
    assert one.text() == other.text() and one.messages() == other.messages()
    assert one["b"] == other["b"] and one["sure"] == other["sure"]
    assert one.spent.calls == other.spent.calls
    assert one.spent.tokens == other.spent.tokens


def test_a_bad_grammar_ends_its_gen_and_the_server_goes_on(served):
    @sgl.function
    def odd(s):
        s += "x" + sgl.gen("a", json_schema='{"type": "no such type"}')

    state = odd.run(backend=sgl.RuntimeEndpoint(served[1]))
    assert isinstance(state.error().__cause__, RequestError | BadGrammar)
    assert talk.run(backend=sgl.RuntimeEndpoint(served[1]), temperature=0).error() is None


def test_openais_chat_and_completions(served):
    @sgl.function
    def chat(s):
        s += sgl.user("Hi") + sgl.assistant(sgl.gen("a", max_tokens=5))
        s += sgl.user("So?") + sgl.assistant(sgl.gen("b", max_tokens=5))

    backend = sgl.OpenAI("tiny", base_url=served[1] + "/v1", api_key="k")
    for stream in (False, True):
        state = chat.run(backend=backend, temperature=0, stream=stream)
        mine = chat.run(backend=served[0], temperature=0)
        assert state["a"] == mine["a"]  # later text differs where a character was not whole
        assert state.error() is None and state.spent.calls == 2
        assert state.spent.output_tokens == mine.spent.output_tokens

    @sgl.function
    def text(s):
        s += "Once" + sgl.gen("a", max_tokens=5, return_logprob=True)

    backend = sgl.OpenAI("tiny", False, base_url=served[1] + "/v1", api_key="k")
    state = text.run(backend=backend, temperature=0)
    assert state["a"] == text.run(backend=served[0], temperature=0)["a"]
    assert len(state.get_meta_info("a")["output_token_logprobs"]) == 5


def test_a_turn_goes_on_where_the_server_can(served):
    @sgl.function
    def within(s):
        s += sgl.user("Hi") + sgl.assistant("Well, " + sgl.gen("a", max_tokens=5))

    backend = sgl.OpenAI("tiny", base_url=served[1] + "/v1", api_key="k", continues_turn=True)
    state = within.run(backend=backend, temperature=0)
    assert state["a"] == within.run(backend=served[0], temperature=0)["a"]


@pytest.mark.parametrize(
    ("setting", "name"), [({"regex": "a+"}, "regex"), ({"top_k": 5}, "top_k")], ids=str
)
def test_what_openai_has_no_field_for_is_refused_by_name(served, setting, name):
    @sgl.function
    def odd(s):
        s += sgl.user("Hi") + sgl.assistant(sgl.gen("a", **setting))

    state = odd.run(backend=sgl.OpenAI("tiny", base_url=served[1] + "/v1", api_key="k"))
    with pytest.raises(ProgramError, match=rf"gen 'a' .*{name}") as caught:
        state["a"]
    assert isinstance(caught.value.__cause__, NotSupported)


class Faulty:
    """A server whose n-th answer to a call is what the script says: bytes, or None to hang up."""

    def __init__(self, answers):
        self.answers, self.calls = answers, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536) or b"\r\n\r\n"
            head, _, rest = data.partition(b"\r\n\r\n")
            length = next(
                (
                    int(x.split(b":")[1])
                    for x in head.split(b"\r\n")
                    if x.lower().startswith(b"content-l")
                ),
                0,
            )
            while len(rest) < length:
                rest += connection.recv(65536)
            answer = self.answers(self.calls, json.loads(rest or b"{}"))
            self.calls += 1
            if answer:
                connection.sendall(answer)

    def close(self):
        self._listener.close()


def http(status, body, headers="", cut=0):
    text = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n{headers}\r\n"
    )
    return head.encode() + text[: len(text) - cut]


def fine(text):
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@sgl.function
def one(s, number):
    s += sgl.user(f"number {number}") + sgl.assistant(sgl.gen("a"))


def test_some_programs_are_hung_up_on_and_the_others_go_on():
    def answer(_, body):
        number = int(body["messages"][0]["content"].split()[1])
        if number % 5 == 0:
            return None  # hung up before an answer
        if number % 5 == 1:
            return http(200, fine("never whole"), cut=9)
        if number % 5 == 2:
            return b"HTTP/1.1 200 X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwhat"
        return http(200, fine(f"ok {number}"))

    server = Faulty(answer)
    backend = sgl.OpenAI("m", base_url=server.url, api_key="k")
    states = one.run_batch([(i,) for i in range(20)], backend=backend, num_threads=8)
    server.close()
    for i, state in enumerate(states):
        if i % 5 >= 3:
            assert state["a"] == f"ok {i}" and state.spent == Spent(1, 3, 0, 2)
        else:
            with pytest.raises(ProgramError, match=r"gen 'a' \(test_lang_endpoints.py:\d+\)") as e:
                state["a"]
            assert isinstance(e.value.__cause__, BackendError)


def test_429_is_waited_for_and_then_told():
    busy = http(429, {"error": {"message": "slow down"}}, "Retry-After: 0\r\n")
    server = Faulty(lambda n, body: busy if n < 2 else http(200, fine("at last")))
    backend = sgl.OpenAI("m", base_url=server.url, api_key="k")
    assert one.run(1, backend=backend)["a"] == "at last" and backend.transport.num_retries == 2
    server.close()

    server = Faulty(lambda n, body: busy)
    state = one.run(1, backend=sgl.OpenAI("m", base_url=server.url, api_key="k", max_retries=1))
    with pytest.raises(ProgramError, match="slow down") as caught:
        state["a"]
    assert isinstance(caught.value.__cause__, OutOfCapacity) and server.calls == 2
    server.close()


def test_a_stream_that_breaks_off_keeps_what_came_and_fails():
    first = {"choices": [{"index": 0, "delta": {"content": "half"}}]}
    sent = f"data: {json.dumps(first)}\n\n".encode()
    head = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    server = Faulty(lambda n, body: head + sent)
    state = one.run(1, backend=sgl.OpenAI("m", base_url=server.url, api_key="k"), stream=True)
    pieces = []
    with pytest.raises(ProgramError, match="ended before choice 0 did"):
        pieces.extend(state.text_iter("a"))
    server.close()


def test_tools_are_offered_and_calls_are_told():
    call = {"id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = {"content": None, "tool_calls": [call]}
    asked = []

    def answer(_, body):
        asked.append(body)
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return http(200, {"choices": [choice], "usage": {}})

    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}

    @sgl.function
    def calls(s):
        s += sgl.user("1+1") + sgl.assistant(sgl.gen("a", tools=[tool], tool_choice="add"))

    server = Faulty(answer)
    state = calls.run(backend=sgl.OpenAI("m", base_url=server.url, api_key="k"))
    server.close()
    assert state.get_meta_info("a")["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    ]
    assert asked[0]["tools"] == [tool]
    assert asked[0]["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert state.messages()[-1]["tool_calls"][0]["function"]["name"] == "add"


def test_nobody_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    backend = sgl.RuntimeEndpoint(url, max_retries=0)
    assert "Is the server running?" in str(one.run(1, backend=backend).error())


def test_an_output_that_failed_is_no_text(served):
    class Failing(ScriptedBackend):
        async def agenerate(self, request):
            raise BackendError("the engine has stopped")

    assert "the engine has stopped" in str(one.run(1, backend=Failing()).error())


@pytest.mark.slow
def test_a_runtime_starts_and_ends_its_server():
    with sgl.Runtime("tiny", page_size=4) as runtime:
        state = talk.run(backend=runtime, temperature=0)
        assert state.error() is None
        assert sgl.get_server_info(runtime)["page_size"] == 4
        sgl.flush_cache(runtime)
    assert runtime._process.poll() is not None
    with pytest.raises(BackendError, match="ended with status"):
        sgl.Runtime("no-such-model")


def test_a_gen_is_one_request(served, monkeypatch):
    engine, url = served
    asked, send = [], Transport.send

    async def count(self, method, path, body=None):
        asked.append(path)
        return await send(self, method, path, body)

    monkeypatch.setattr(Transport, "send", count)

    @sgl.function
    def two(s):
        s += "One: " + sgl.gen("a", max_tokens=12, stop="e")
        s += " Two: " + sgl.gen("b", max_tokens=12, stop=["a", "i", "o"])
        s += " Three: " + sgl.gen("c", max_tokens=4)

    remote = two.run(backend=sgl.RuntimeEndpoint(url), temperature=0)
    local = two.run(backend=engine, temperature=0)
    assert remote.text() == local.text() and remote.error() is None
    assert asked == ["/generate"] * 3
