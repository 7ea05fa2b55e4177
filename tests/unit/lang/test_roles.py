"""Turns: the model's own template writes what stands around them, tokens that were made stay."""

import asyncio

import pytest

import evolute.lang as sgl
from evolute.lang.backend import Capabilities, Made
from evolute.lang.endpoints import OnTokens
from evolute.lang.thinking import split
from evolute.models.chat_template import ChatTemplate
from evolute.testing import ByteTokenizer, ScriptedBackend, ScriptedTextBackend
from evolute.types import NotSupported, ProgramError, RequestError

LLAMA3 = (  # trims what is said, as Llama 3 does
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<eot>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETS = (  # drops thoughts of earlier turns, as reasoning models do
    "{% for m in messages %}<{{ m['role'] }}>"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<eot>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<system>Be kind.<eot>{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Templated(ByteTokenizer):
    def __init__(self, source):
        super().__init__()
        self.template = ChatTemplate(source, bos="<bos>")


def scripted(source, answers):
    return ScriptedBackend(answers, tokenizer=Templated(source))


@sgl.function
def chat(s, first=" Hello \n", second="More"):
    s += sgl.system("Short.")
    s += sgl.user(first)
    s += sgl.assistant(sgl.gen("a", max_tokens=64))
    with s.user():
        s += second
    s += sgl.assistant_begin() + "So:" + sgl.gen("b", max_tokens=64) + sgl.assistant_end()


def sent(backend, index):
    return bytes(backend.requests[index].prompt).decode()


def test_the_prompt_is_what_the_template_makes_of_the_messages():
    backend = scripted(LLAMA3, ["Hi.", " yes"])
    state = chat.run(backend=backend)
    assert sent(backend, 0) == "<bos><system>Short.<eot><user>Hello<eot><assistant>"
    assert sent(backend, 1) == sent(backend, 0) + "Hi.<eot><user>More<eot><assistant>So:"
    assert state.messages() == [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": " Hello \n"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "More"},
        {"role": "assistant", "content": "So: yes"},
    ]
    assert state.text() == backend.tokenizer.template.render(
        state.messages(), add_generation_prompt=False
    )


def test_what_was_made_stays_even_where_the_template_would_trim_it():
    backend = scripted(LLAMA3, [" Hi. \n", "x"])
    state = chat.run(backend=backend)
    assert sent(backend, 1) == sent(backend, 0) + " Hi. \n<eot><user>More<eot><assistant>So:"
    made = [p for p in state.stream.now.prompt.pieces if isinstance(p, Made)]
    assert [p.text for p in made] == [" Hi. \n", "x"]
    assert all(bytes(p.token_ids).decode() == p.text for p in made)


def test_a_default_system_prompt_is_the_templates():
    @sgl.function
    def plain(s):
        s += sgl.user("Hi") + sgl.assistant(sgl.gen("a"))

    backend = scripted(DEFAULT_SYSTEM, ["x"])
    plain.run(backend=backend)
    assert sent(backend, 0) == "<system>Be kind.<eot><user>Hi<eot><assistant>"


def test_a_template_that_changes_earlier_turns_has_all_rendered_anew():
    backend = scripted(FORGETS, ["hm</think>Hi.", "x"])
    state = chat.run(first="Hello", backend=backend)
    assert sent(backend, 1) == (
        "<system>Short.<eot><user>Hello<eot><assistant>Hi.<eot><user>More<eot><assistant>So:"
    )
    assert state.get_meta_info("a")["rewrites"] == 0
    assert state.get_meta_info("b")["rewrites"] == 1


def test_text_outside_roles_and_a_template_that_rewrites_exclude_one_another():
    @sgl.function
    def mixed(s):
        s += "before"
        chat(s)

    state = mixed.run(backend=scripted(FORGETS, ["hm</think>Hi."]))
    assert isinstance(state.error(), ProgramError)
    assert isinstance(state.error().__cause__, NotSupported)
    fine = mixed.run(backend=scripted(LLAMA3, ["Hi."]))
    assert fine.text().startswith("before<bos><system>")


def test_roles_within_roles_are_refused():
    @sgl.function
    def nested(s):
        with s.user():
            s += sgl.assistant("no")

    state = nested.run(backend=ScriptedTextBackend())
    assert "begins within 'user'" in str(state.error())
    assert isinstance(state.error().__cause__, RequestError)


def test_a_chat_endpoint_gets_messages_alone():
    @sgl.function
    def plain(s):
        s += sgl.user("Hi") + sgl.assistant(sgl.gen("a")) + sgl.user("So?")
        s += sgl.assistant(sgl.gen("b"))

    backend = ScriptedTextBackend(["one", "two"], capabilities=Capabilities(chats=True))
    state = plain.run(backend=backend)
    assert [m["content"] for m in backend.requests[1].prompt.messages] == ["Hi", "one", "So?"]
    assert not backend.requests[1].prompt.is_open and state["b"] == "two"


@pytest.mark.parametrize("begin", ["So: ", ""], ids=["within a turn", "outside roles"])
def test_what_a_chat_endpoint_cannot_be_asked_is_refused_by_name(begin):
    @sgl.function
    def odd(s):
        s += (sgl.user("Hi") + sgl.assistant(begin + sgl.gen("a"))) if begin else sgl.gen("a")

    backend = ScriptedTextBackend(capabilities=Capabilities(chats=True))
    state = odd.run(backend=backend)
    with pytest.raises(ProgramError, match="num_api_spec_tokens" if begin else "only answers"):
        state["a"]
    assert backend.requests == []


def test_an_endpoint_that_only_completes_has_no_roles():
    state = chat.run(backend=ScriptedTextBackend(capabilities=Capabilities(completes=True)))
    assert "no chat template" in str(state.error())


def test_branches_within_a_turn_go_on_from_it():
    @sgl.function
    def vote(s):
        s += sgl.user("Pick")
        with s.assistant():
            forks = s.fork(2)
            forks += sgl.gen("v")
            forks.join()
            s += forks[0]["v"] + forks[1]["v"]

    backend = scripted(LLAMA3, ["for the hint", "a", "b"])
    state = vote.run(backend=backend)
    assert state.messages()[-1] == {"role": "assistant", "content": "ab"}
    assert sent(backend, 1) == "<bos><user>Pick<eot><assistant>"  # 0 is the hint


def test_thoughts_leave_the_prompt_and_are_kept_beside():
    @sgl.function
    def think(s):
        s += sgl.user("2+2?")
        s += sgl.assistant(sgl.separate_reasoning("A: " + sgl.gen("a"), model_type="qwen3"))
        s += sgl.user("Sure?") + sgl.assistant(sgl.gen("b"))

    backend = scripted(LLAMA3, ["<think>two and two</think>\n4", "yes"])
    state = think.run(backend=backend)
    assert state["a"] == "4" and state["a_reasoning_content"] == "two and two"
    assert sent(backend, 1).endswith("<assistant>A: 4<eot><user>Sure?<eot><assistant>")


@pytest.mark.parametrize(
    ("text", "model", "thought", "answer"),
    [
        ("<think>a</think>b", None, "a", "b"),
        ("a</think>b", None, "a", "b"),
        ("a</think>b", "qwen3", "", "a</think>b"),
        ("a</think>b", "deepseek-r1", "a", "b"),
        ("still thinking", "deepseek-r1", "still thinking", ""),
        ("plain", None, "", "plain"),
        ("◁think▷a◁/think▷b", "kimi", "a", "b"),
    ],
)
def test_where_reasoning_ends(text, model, thought, answer):
    assert split(text, model) == (thought, answer)
    with pytest.raises(ValueError, match="not known"):
        split(text, "no-such-model")


def test_a_template_is_told_by_any_backend_of_tokens():
    backend = OnTokens(ScriptedBackend(tokenizer=ByteTokenizer()))
    message = {"role": "user", "content": "hi"}
    assert asyncio.run(backend.render([message])) == "<turn>user\nhi<end>"
    assert asyncio.run(backend.render([message], is_open=True)) == "<turn>user\nhi"


def test_the_constant_turns_are_computed_beforehand():
    @sgl.function
    def shots(s, question):
        s += sgl.system("Short.") + sgl.user("1+1?") + sgl.assistant("2")
        s += sgl.user(question) + sgl.assistant(sgl.gen("a"))

    backend = scripted(LLAMA3, ["x"])
    shots.cache(backend)
    prefix = "<bos><system>Short.<eot><user>1+1?<eot><assistant>2<eot><user>"
    assert sent(backend, 0) == prefix
    shots.run("2+2?", backend=backend)
    assert sent(backend, 1) == prefix + "2+2?<eot><assistant>"
