"""Everything that clients and operators do to a server, at random, and what must come of it.

Traffic(server, plan, seed).visit(until_s)     one visitor; several may visit at once
traffic.fill_caches()                          until bounded ones have reached their bounds
traffic.done, refused, errors                  counts by action; what was not the client's fault

An action knows which answers are right. A refusal of what cannot be served (an adapter just
unloaded, a body that makes no sense) is right; a 5xx, a cut or malformed answer, and none, are not.
None is no byte for SILENT_S: how long a whole answer takes is the machine's affair.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any

from evolute.bench.load.connection import Connections, Failure
from evolute.bench.soak_patience import Patience
from evolute.bench.soak_rough import RoughClients

SILENT_S = 60.0  # the longest that a server may say nothing to who waits for it
WHOLE_S = 600.0  # for one action, however busy the machine is that both run on
FIRST_ID, LAST_ID = 16, 250  # tokens that every model has
MAX_ASKED = 50  # times, between two steps each, until a request whose client left is gone
NUM_NEW, IN_TURN = 2400, 8  # of `fill_caches`: more than are kept of tenants, and of grammars
MOST_NEW = 64  # tokens: what a grammar takes grows with its use, so these are used to their end
POLICIES = ("fcfs", "lpm", "vtc", "dlpm", "priority")
NO_HEADERS: dict[str, str] = {}
BAD_BODIES = (
    b"{",
    b"[]",
    b'"text"',
    b"\xff\xfe{}",
    b'{"prompt": "x", "max_tokens": -1}',
    b'{"prompt": "x", "max_tokens": 1e300}',
    b'{"prompt": "x", "temperature": "hot"}',
    b'{"prompt": [99999999], "max_tokens": 1}',
    b'{"prompt": {}, "max_tokens": 1}',
    b'{"prompt": "x", "max_tokns": 1}',
    b'{"prompt": "x", "best_of": 9, "max_tokens": 1}',
    b'{"prompt": "x", "model": "nobody-loaded-this", "max_tokens": 1}',
)


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """What the server's machine has for its visitors."""

    model_path: str
    adapters: Sequence[str]  # directories
    weights: bytes = b""  # a body of /update_weights_from_tensor; empty: none
    longest: int = 400  # tokens of an answer that is to be cut off
    rare: float = 1.0  # weight of actions that stop all others


@dataclass(slots=True)
class Traffic:
    """Counts are by action."""

    connections: Connections
    plan: SoakPlan
    seed: int = 0
    patience: Patience = field(default_factory=Patience)
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    most_asked: int = 0  # until a request whose client left was gone
    _has_begun: bool = False
    _dice: random.Random = field(default_factory=random.Random)
    _rough: RoughClients = field(init=False)

    def __post_init__(self) -> None:
        self._dice.seed(self.seed)
        self._rough = RoughClients(*self.connections.address, self._dice)

    @property
    def num_requests(self) -> int:
        return self.done.total() + self.refused.total() + len(self.errors)

    async def visit(self, until_s: float) -> None:
        """One action after the other, until `time.monotonic()` says so; whoever comes first begins
        with one of each, so that even a short soak has seen all."""
        rare = self.plan.rare
        actions: dict[Callable[[], Awaitable[bool]], float] = {
            self._completion: 20,
            self._chat: 10,
            self._stream: 20,
            self._batch: 8,
            self._samples: 5,
            self._grammar: 6,
            self._abort: 10,
            self._disconnect: 14,
            self._hang_up: 4,
            self._slow_reader: 4,
            self._half_open: 3,
            self._bad_body: 8,
            self._look: 4,
            self._adapter: 5 * rare,
            self._publish: 4 * rare,
            self._policy: 1 * rare,
            self._weights: 1.5 * rare,
            self._flush: 1 * rare,
            self._pause: 0.5 * rare,
        }
        is_first, self._has_begun = not self._has_begun, True
        for action in actions if is_first else ():
            await self._try(action)
        while time.monotonic() < until_s:
            (action,) = self._dice.choices(list(actions), list(actions.values()))
            await self._try(action)

    async def fill_caches(self) -> None:
        """Of grammars and of tenants, which grow to a bound: from now on memory is to be flat."""

        async def some() -> None:
            for _ in range(NUM_NEW // IN_TURN):
                await self._try(self._newcomer)

        await asyncio.gather(*(some() for _ in range(IN_TURN)))

    async def close(self) -> None:
        await self._rough.close()

    @property
    def num_half_open_ended(self) -> int:
        return self._rough.num_ended

    async def _try(self, action: Callable[[], Awaitable[bool]]) -> None:
        name = getattr(action, "__name__", "").lstrip("_")
        try:
            async with asyncio.timeout(WHOLE_S):
                was_served = await action()
            (self.done if was_served else self.refused)[name] += 1
        except TimeoutError:
            text = f"silent for {SILENT_S:g} s, or not at its end after {WHOLE_S:g} s"
            self.errors.append(f"{name}: {text}")
        except Failure as error:
            self.errors.append(f"{name}: {error.kind}: {error}")
        except OSError as error:
            self.errors.append(f"{name}: connection: {error}")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self.errors.append(f"{name}: an answer of another shape: {error!r}")

    # -- what clients do -------------------------------------------------------

    async def _completion(self) -> bool:
        body, may_refuse = self._body()
        found = await self._post("/v1/completions", body, may_refuse)
        if found is None:
            return False
        self._expect(found["choices"][0]["finish_reason"] in ("stop", "length"), found)
        return True

    async def _chat(self) -> bool:
        texts = ["You count.", "One.", f"Then {self._dice.randrange(40)}?"]
        roles = ("system", "assistant", "user")
        messages = [{"role": r, "content": t} for r, t in zip(roles, texts)]
        body = {"messages": messages, "max_tokens": self._length(), "user": self._tenant()}
        found = await self._post("/v1/chat/completions", body | {"model": "default"})
        self._expect(found is not None and found["usage"]["completion_tokens"] > 0, found)
        return True

    async def _stream(self) -> bool:
        body, may_refuse = self._body()
        last = b""
        try:
            async for _, last in self._events(body):
                self._expect(b'"error"' not in last[:12], last)
        except Failure as error:
            if may_refuse and error.kind in ("http_400", "http_404"):
                return False
            raise
        self._expect(last == b"[DONE]", last)
        return True

    async def _batch(self) -> bool:
        prompts = [self._prompt() for _ in range(self._dice.randint(2, 5))]
        settings = {"max_new_tokens": self._length(), "temperature": 1.0}
        body = {"input_ids": prompts, "sampling_params": settings, "user": self._tenant()}
        found = await self._post("/generate", body)
        self._expect(isinstance(found, list) and len(found) == len(prompts), found)
        return True

    async def _samples(self) -> bool:
        n = self._dice.randint(2, 4)
        body, may_refuse = self._body()
        found = await self._post("/v1/completions", body | {"n": n, "temperature": 1}, may_refuse)
        self._expect(found is None or len(found["choices"]) == n, found)
        return found is not None

    async def _grammar(self) -> bool:
        """An answer that is not cut off is of the language: a pattern or a schema, some new."""
        count = self._dice.randint(1, 6)
        is_schema = self._dice.random() < 0.5
        if is_schema:
            key = f"k{self._dice.randrange(4) and self._dice.getrandbits(30)}"
            asked: dict[str, Any] = {"json_schema": _object_with(key)}
        else:
            asked = {"regex": f"[0-9]{{{count}}}(yes|no)"}
        body = {"model": "default", "prompt": self._prompt(), "max_tokens": 64, **asked}
        found = await self._post("/v1/completions", body | {"user": self._tenant()})
        (choice,) = found["choices"]
        if choice["finish_reason"] == "stop":
            is_right = (
                set(json.loads(choice["text"])) == {key}
                if is_schema
                else re.fullmatch(asked["regex"], choice["text"]) is not None
            )
            self._expect(is_right, choice)
        return True

    async def _newcomer(self) -> bool:
        """A tenant and a grammar that nobody had before."""
        key = f"k{self._dice.getrandbits(40)}"
        body = {"model": "default", "prompt": self._prompt(), "max_tokens": MOST_NEW}
        body |= {"json_schema": _object_with(key), "user": f"once-{key}"}
        await self._post("/v1/completions", body)
        return True

    async def _abort(self) -> bool:
        """By the id, at some moment, perhaps too early or too late. The engine hears of it
        between two steps; whoever asks after that must not find the request any more."""
        rid = f"soak-{self._dice.getrandbits(60):x}"
        settings = {"max_new_tokens": self.plan.longest, "ignore_eos": True}
        body = {"input_ids": self._prompt(), "sampling_params": settings, "rid": rid}
        answer = asyncio.ensure_future(self._post("/generate", body | {"user": self._tenant()}))
        try:
            await asyncio.sleep(self._dice.expovariate(20))
            was_in = await self._is_in_flight(rid)
            status, text = await self._fetch("/abort_request", json.dumps({"rid": rid}).encode())
            self._expect(status == 200, text)
            self._expect(not (was_in and await self._is_in_flight(rid)), f"{rid} still runs")
            found = await answer
        finally:
            answer.cancel()
        kind = found["meta_info"]["finish_reason"]["type"]
        self._expect(kind in ("abort", "length", "stop"), found)
        return True

    async def _disconnect(self) -> bool:
        """In the middle of a stream."""
        body, may_refuse = self._body()
        body |= {"max_tokens": self.plan.longest, "ignore_eos": True}
        left, id = self._dice.randint(1, 20), ""
        try:
            async with aclosing(self._events(body)) as events:
                async for _, payload in events:
                    self._expect(b'"error"' not in payload[:12], payload)
                    left -= 1
                    if not left:
                        id = json.loads(payload)["id"]
                        break
        except Failure as error:
            if may_refuse and error.kind in ("http_400", "http_404"):
                return False
            raise
        await self._expect_gone(id)
        return True

    async def _hang_up(self) -> bool:
        """Before the answer, mostly."""
        body, may_refuse = self._body()
        body |= {"max_tokens": self.plan.longest, "ignore_eos": True}
        answer = asyncio.ensure_future(self._fetch("/v1/completions", json.dumps(body).encode()))
        await asyncio.wait([answer], timeout=self._dice.expovariate(30))
        if answer.done():
            status, text = answer.result()
            self._expect(status == 200 or (may_refuse and status in (400, 404)), text)
            return status == 200
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        return True

    async def _slow_reader(self) -> bool:
        body, may_refuse = self._body()
        body |= {"max_tokens": self.plan.longest // 4, "logprobs": 2, "stream": True}
        content = json.dumps(body).encode()
        got = await self._rough.read_slowly("/v1/completions", content, self._silence)
        was_served = got.startswith(b"HTTP/1.1 200")
        self._expect(was_served or may_refuse, got[:300])
        self._expect(b"[DONE]" in got or not was_served, got[-300:])
        return was_served

    async def _half_open(self) -> bool:
        body = {"model": "default", "prompt": self._prompt(), "max_tokens": 1}
        await self._rough.say_half("/v1/completions", json.dumps(body).encode())
        return True

    async def _bad_body(self) -> bool:
        status, text = await self._fetch("/v1/completions", self._dice.choice(BAD_BODIES))
        is_refusal = 400 <= status < 500 or status == 501
        self._expect(is_refusal and "error" in json.loads(text), f"{status} {text}")
        return False

    async def _look(self) -> bool:
        path = self._dice.choice(("/stats", "/health", "/metrics", "/v1/models", "/server_info"))
        status, text = await self._see(path)
        self._expect(status == 200 and bool(text or path == "/health"), f"{path}: {status} {text}")
        return True

    # -- what operators do -----------------------------------------------------

    async def _adapter(self) -> bool:
        """Load, or unload, or both: another version under the same name."""
        name = self._name()
        act = self._dice.choice(("load", "unload", "update"))
        was_served = True
        if act != "load":
            body = {"lora_name": name}
            was_served = await self._post("/unload_lora_adapter", body, True) is not None
        if act != "unload" and was_served:
            body = {"lora_name": name, "lora_path": self._dice.choice(self.plan.adapters)}
            was_served = await self._post("/load_lora_adapter", body, True) is not None
        return was_served

    async def _publish(self) -> bool:
        """A new version of an adapter while requests use the old one."""
        body = {"lora_name": self._name(), "lora_path": self._dice.choice(self.plan.adapters)}
        await self._post("/load_lora_adapter", body | {"load_inplace": True})
        return True

    async def _policy(self) -> bool:
        """And other settings, while requests wait and run under the last ones."""
        dice = self._dice
        settings: dict[str, Any] = {
            "policy": dice.choice(POLICIES),
            "max_running": dice.choice((8, 64)),
            "token_budget": dice.choice((64, 512)),
            "speculation": dice.choice(("none", "ngram")),
        }
        found = await self._post("/set_internal_state", {"server_args": settings})
        self._expect(
            found["updated"] and found["server_args"] | settings == found["server_args"], found
        )
        return True

    async def _weights(self) -> bool:
        if self.plan.weights and self._dice.random() < 0.5:
            status, text = await self._fetch("/update_weights_from_tensor", self.plan.weights)
            self._expect(status == 200, text)
        else:
            await self._post("/update_weights_from_disk", {"model_path": self.plan.model_path})
        return True

    async def _flush(self) -> bool:
        """Refused while requests are in flight."""
        return await self._post("/flush_cache", None, True) is not None

    async def _pause(self) -> bool:
        mode = self._dice.choice(("retract", "in_place"))
        try:
            await self._post("/pause_generation", {"mode": mode})
            await asyncio.sleep(0.05)
        finally:
            await self._post("/continue_generation", {})
        return True

    # -- internals -------------------------------------------------------------

    async def _is_in_flight(self, id: str) -> bool:
        status, text = await self._see(f"/explain/{id}")
        self._expect(status in (200, 404), f"{status} {text}")
        return status == 200 and any("state" in one for one in json.loads(text)["outputs"])

    async def _expect_gone(self, id: str) -> None:
        """Each look is at a moment between two steps."""
        asked = 0
        while id and await self._is_in_flight(id):
            asked += 1
            self._expect(asked < MAX_ASKED, f"{id} runs for nobody")
        self.most_asked = max(self.most_asked, asked)

    def _body(self) -> tuple[dict[str, Any], bool]:
        """Of a completion, and whether it may be refused: its adapter comes and goes."""
        is_adapted = bool(self.plan.adapters) and self._dice.random() < 0.3
        body: dict[str, Any] = {
            "model": self._name() if is_adapted else "default",
            "prompt": self._prompt(),
            "max_tokens": self._length(),
            "temperature": self._dice.choice((0, 1)),
            "user": self._tenant(),
        }
        return body, is_adapted

    def _prompt(self) -> list[int]:
        """One of a few beginnings, then something of its own."""
        dice = self._dice
        start = random.Random(dice.randrange(5)).choices(range(FIRST_ID, LAST_ID), k=64)
        return start + dice.choices(range(FIRST_ID, LAST_ID), k=dice.randint(1, 80))

    def _length(self) -> int:
        return self._dice.randint(1, 24)

    def _tenant(self) -> str:
        """A few that come again and again, and some that never do."""
        dice = self._dice
        return f"t{dice.randrange(5)}" if dice.random() < 0.8 else f"once-{dice.getrandbits(40)}"

    def _name(self) -> str:
        return f"soak-{self._dice.randrange(4)}"

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[tuple[float, bytes], None]:
        content = json.dumps(body | {"stream": True}).encode()
        async with aclosing(
            self.connections.events("/v1/completions", content, NO_HEADERS)
        ) as events:
            while True:
                async with self._silence():
                    event = await anext(events, None)
                if event is None:
                    return
                yield event

    async def _fetch(self, path: str, content: bytes) -> tuple[int, str]:
        async with self._silence():
            return await self.connections.fetch("POST", path, content)

    def _silence(self) -> AbstractAsyncContextManager[None]:
        return self.patience.limit(SILENT_S)

    async def _see(self, path: str) -> tuple[int, str]:
        async with self._silence():
            return await self.connections.fetch("GET", path)

    async def _post(self, path: str, body: Any, may_refuse: bool = False) -> Any:
        """The answer; None for a refusal that may be. Raises Failure for any other."""
        content = b"" if body is None else json.dumps(body).encode()
        status, text = await self._fetch(path, content)
        if may_refuse and status in (400, 404):
            return None
        if status != 200:
            raise Failure(f"http_{status}", f"{path}: {text[:300]}")
        return json.loads(text) if text[:1] in ("{", "[") else text

    def _expect(self, is_right: bool, found: object) -> None:
        if not is_right:
            raise Failure("wrong", f"{found!r}"[:300])


def _object_with(key: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key: {"type": "boolean"}},
        "required": [key],
        "additionalProperties": False,
    }
