"""Long texts are cut into tokens beside the event loop, in few threads, and hold nobody up."""

import asyncio
import threading

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.server import create_app
from evolute.server.encoding import INLINE_CHARS, NUM_THREADS, encoded, is_long
from evolute.testing import ByteTokenizer, ScriptedBackend

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)


def size(value):
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return len(value) + sum(size(part) for pair in value.items() for part in pair)
    return len(value) + sum(map(size, value)) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 40))
def test_length_is_that_of_all_texts_and_of_what_holds_them(value, most):
    assert is_long(value, most) == (size(value) > most)


def test_ids_are_counted_and_not_looked_at():
    assert is_long([1] * 11, 10) and not is_long([1] * 10, 10)
    assert is_long([[1] * 6, [1] * 6], 10)


def test_few_threads_work_however_much_comes_and_short_ones_do_not_wait():
    holds, begun = threading.Event(), []

    def slow():
        begun.append(threading.current_thread().name)
        assert holds.wait(30)
        return 1

    async def run():
        long = "x" * (INLINE_CHARS + 1)
        tasks = [asyncio.ensure_future(encoded(long, slow)) for _ in range(NUM_THREADS + 5)]
        while len(begun) < NUM_THREADS:
            await asyncio.sleep(0)
        assert await encoded("short", lambda: 2) == 2
        assert len(begun) == NUM_THREADS, "the others wait"
        holds.set()
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    assert asyncio.run(run()) == [1] * (NUM_THREADS + 5)
    assert all(name.startswith("evolute-encode") for name in begun)


class Watched(ByteTokenizer):
    """Notes which threads have it make prompts."""

    def __init__(self):
        super().__init__()
        self.users = set()

    def encode(self, text, **options):
        if len(text) > 100:  # shorter ones are marks and scripted answers
            self.users.add(threading.current_thread().name.split("_")[0])
        return super().encode(text, **options)

    def chat(self, messages, **options):
        self.users.add(threading.current_thread().name.split("_")[0])
        return super().chat(messages, **options)


LONG = "y" * (INLINE_CHARS + 1)
TOOL = {"type": "function", "function": {"name": "f", "description": LONG, "parameters": {}}}
CALL = {"type": "function", "id": "c", "function": {"name": "f", "arguments": f'{{"a": "{LONG}"}}'}}
TURNS = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "1"},
]
USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["y" * 3000] * 8}),
        ("/v1/chat/completions", {"messages": USER, "tools": [TOOL]}),
        ("/v1/chat/completions", {"messages": TURNS}),
        ("/v1/messages", {"max_tokens": 1, "messages": USER, "system": LONG}),
        ("/v1/responses", {"input": "x", "instructions": LONG}),
        ("/generate", {"text": ["y" * 3000] * 8}),
        ("/tokenize", {"prompt": ["y" * 3000] * 8}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_whatever_makes_a_prompt_long_is_encoded_beside_the_loop(path, body):
    tokenizer = Watched()
    app = create_app(ScriptedBackend(tokenizer=tokenizer, context=99_999), served_names=["base"])

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            named = body if path in ("/generate",) else {"model": "base"} | body
            return await client.post(path, json=named)

    answer = asyncio.run(send())
    assert answer.status_code == 200, answer.text
    assert tokenizer.users == {"evolute-encode"}
