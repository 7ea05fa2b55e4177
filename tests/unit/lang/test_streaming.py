"""Text as it comes, with its tokens."""

import asyncio

import pytest

import evolute.lang as sgl
from evolute.testing import ScriptedBackend, ScriptedTextBackend
from evolute.types import BackendError, NotSupported, ProgramError


@sgl.function
def poem(s):
    s += "Line:" + sgl.gen("one", max_tokens=20, return_logprob=True)
    s += " then" + sgl.gen("two", max_tokens=20)


@pytest.mark.parametrize("stream", [True, False])
def test_the_pieces_are_the_whole(stream):
    backend = ScriptedBackend(["schön", "und gut"], delay_s=0.0005)
    state = poem.run(backend=backend, stream=stream)
    pieces = list(state.text_iter())
    assert "".join(pieces) == "Line:schön thenund gut" == state.text()
    assert len(pieces) > 5 if stream else len(pieces) == 1


def test_one_variable_alone():
    backend = ScriptedBackend(["schön", "und gut"], delay_s=0.0005)
    state = poem.run(backend=backend, stream=True)
    assert "".join(state.text_iter("two")) == "und gut"
    assert "".join(state.text_iter("one")) == "schön"  # also when it is over
    assert state["two"] == "und gut"


def test_metas_of_all_pieces_hold_each_token_once():
    async def read():
        state = await poem.arun(backend=ScriptedBackend(["schön", "x"]), stream=True)
        return [pair async for pair in state.text_async_iter("one", return_meta_data=True)], state

    pairs, state = asyncio.run(read())
    assert all(text for text, _ in pairs) and "".join(text for text, _ in pairs) == "schön"
    entries = [e for _, meta in pairs for e in meta["output_token_logprobs"]]
    told = list("schön".encode()) + [256]
    assert [entry[1] for entry in entries] == told
    assert entries == state.get_meta_info("one")["output_token_logprobs"]
    assert len(entries) == state.get_meta_info("one")["completion_tokens"]


def test_a_failure_comes_where_it_is_read():
    backend = ScriptedTextBackend(["fine", BackendError("gone")])
    state = poem.run(backend=backend, stream=True)
    assert "".join(state.text_iter("one")) == "fine"
    with pytest.raises(ProgramError, match=r"gen 'two'.*gone"):
        list(state.text_iter())
    with pytest.raises(ProgramError, match=r"gen 'two'.*gone"):
        list(state.text_iter("two"))


def test_what_the_function_raises_is_not_lost():
    @sgl.function
    def wrong(s):
        s += "a" + sgl.gen("x")
        s["x"]
        raise RuntimeError("mine")

    state = wrong.run(backend=ScriptedTextBackend(["b"]), stream=True)
    with pytest.raises(RuntimeError, match="mine"):
        list(state.text_iter())
    assert str(state.error()) == "mine"


def test_reading_before_the_program_is_there_waits_for_it():
    @sgl.function
    def slow(s):
        s += sgl.gen("a")
        s["b"] = s["a"] + "!"

    state = slow.run(backend=ScriptedTextBackend(["x"], delay_s=0.02), stream=True)
    assert state["b"] == "x!"
    with pytest.raises(KeyError):
        state["c"]


def test_reasoning_is_not_told_apart_while_streaming():
    @sgl.function
    def think(s):
        s += sgl.separate_reasoning(sgl.gen("a"))

    state = think.run(backend=ScriptedTextBackend(), stream=True)
    assert isinstance(state.error().__cause__, NotSupported)
