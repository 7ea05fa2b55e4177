"""Programs with num_api_spec_tokens: fewer calls, the same texts; refused where it cannot be."""

import pytest

import evolute.lang as sgl
from evolute.lang.account import Account, Budget
from evolute.lang.backend import Capabilities
from evolute.testing import ByteTokenizer, ScriptedTextBackend
from evolute.types import NotSupported, ProgramError

FORM = "Form.\nName: Ann\nBorn: 1912\nTown: Ulm\n\nForm.\n"
COMPLETES = Capabilities(completes=True)
CHATS = Capabilities(chats=True)


def going_on(request):
    """The form, wherever the prompt stands in it; elsewhere a word of its own."""
    prompt = request.prompt.text
    return FORM[len(prompt) :] if FORM.startswith(prompt) else "else\n"


def completing(capabilities=COMPLETES, tokenizer=None):
    backend = ScriptedTextBackend(going_on, capabilities=capabilities)
    backend.tokenizer = tokenizer
    return backend


def form(s):
    s += "Form.\nName:" + sgl.gen("name", stop="\n")
    s += "\nBorn:" + sgl.gen("born", stop="\n")
    s += "\nTown:" + sgl.gen("town", stop="\n")


PLAIN, SPECULATED = sgl.function(form), sgl.function(form, num_api_spec_tokens=64)


@pytest.mark.parametrize("tokenizer", [None, ByteTokenizer()])
def test_one_call_answers_the_gens_of_a_form(tokenizer):
    expected = PLAIN.run(backend=completing(), temperature=0)
    backend = completing(tokenizer=tokenizer)
    state = SPECULATED.run(backend=backend, temperature=0)
    assert state.text() == expected.text()
    assert [state[name] for name in ("name", "born", "town")] == [" Ann", " 1912", " Ulm"]
    assert len(backend.requests) == state.spent.calls == 1
    assert state.spent.calls_saved == state.speculation.hits == 2
    assert state.spent.prompt_tokens < expected.spent.prompt_tokens
    assert (state.speculation.tokens_wasted > 0) == (tokenizer is not None)


def test_every_program_of_a_batch_has_a_surplus_of_its_own():
    backend = completing()
    states = SPECULATED.run_batch([{}] * 20, backend=backend, temperature=0)
    assert [state["town"] for state in states] == [" Ulm"] * 20
    assert len(backend.requests) == 20
    assert all(state.speculation.hits == 2 for state in states)


def test_what_does_not_go_on_as_the_program_says_is_asked_anew():
    @sgl.function(num_api_spec_tokens=64)
    def other(s):
        s += "Form.\nName:" + sgl.gen("name", stop="\n")
        s += "\nAge:" + sgl.gen("age", stop="\n")

    backend = completing()
    state = other.run(backend=backend, temperature=0)
    assert (state["name"], state["age"]) == (" Ann", "else")
    assert len(backend.requests) == 2
    assert (state.speculation.misses, state.spent.calls_saved) == (1, 0)


def test_branches_begin_without_a_surplus_and_the_parent_keeps_its_own():
    @sgl.function(num_api_spec_tokens=64)
    def forked(s):
        s += "Form.\nName:" + sgl.gen("name", stop="\n")
        forks = s.fork(2)
        forks += "\nBorn:" + sgl.gen("born", stop="\n")
        forks.join()
        s += "\nBorn:" + sgl.gen("mine", stop="\n")

    backend = completing()
    state = forked.run(backend=backend, temperature=0)
    assert state["born"] == [" 1912", " 1912"] and state["mine"] == " 1912"
    assert len(backend.requests) == 3 and state.spent.calls_saved == 1


def test_gens_of_one_call_have_one_sampling():
    @sgl.function(num_api_spec_tokens=64)
    def mixed(s):
        s += "Form.\nName:" + sgl.gen("name", stop="\n", temperature=0)
        s += "\nBorn:" + sgl.gen("born", stop="\n", temperature=1.0)

    state = mixed.run(backend=completing())
    with pytest.raises(ProgramError, match=r"gen 'born' .*temperature 1.0.*0"):
        state["born"]


def test_a_budget_of_one_call_is_enough():
    account = Account(Budget(calls=1))
    state = SPECULATED.run(backend=completing(), temperature=0, account=account)
    assert state["town"] == " Ulm"
    assert account.spent.calls_saved == 2


def test_it_is_refused_where_it_cannot_be():
    with pytest.raises(NotSupported, match="stream=True"):
        SPECULATED.run(backend=completing(), stream=True)


def chat(text, *, continues=False):
    can = Capabilities(chats=True, continues_turn=continues)
    return ScriptedTextBackend([text] if isinstance(text, str) else text, capabilities=can)


@sgl.function(num_api_spec_tokens=80)
def told(s):
    s += sgl.user("Fill in the form.")
    with s.assistant(), s.var_scope("whole"):
        s += "Name:" + sgl.gen("name", stop="\n") + "\nBorn:" + sgl.gen("born", stop="\n")
    s += sgl.user("Thanks.")


def test_a_chat_writes_a_whole_turn_in_one_call():
    backend = chat("Name: Ann\nBorn: 1912\nand more")
    state = told.run(backend=backend, temperature=0)
    assert (state["name"], state["born"]) == (" Ann", " 1912")
    assert state["whole"] == "Name: Ann\nBorn: 1912"
    assert state.messages()[1] == {"role": "assistant", "content": "Name: Ann\nBorn: 1912"}
    (request,) = backend.requests
    assert request.sampling.max_new_tokens == 80 and request.sampling.stop == ()
    assert state.spent.calls_saved == 1


def test_a_chat_is_asked_three_times_and_then_the_model_s_words_are_told():
    backend = chat("I would rather not.")
    state = told.run(backend=backend, temperature=1.0)
    with pytest.raises(ProgramError, match=r"gen 'name' \(test_spec.*I would rather not"):
        state["born"]
    assert len(backend.requests) == 3
    assert state.speculation.misses == 3


def test_a_chat_that_goes_on_within_a_turn_is_asked_as_ever_after_a_miss():
    backend = chat(["I would rather not.", " Ann\n", " 1912\n"], continues=True)
    state = told.run(backend=backend, temperature=0)
    assert (state["name"], state["born"]) == (" Ann", " 1912")
    assert len(backend.requests) == 3  # greedy: the turn is tried once


def test_a_turn_that_is_one_gen_is_an_ordinary_call():
    @sgl.function(num_api_spec_tokens=80)
    def ask(s):
        s += sgl.user("Who?") + sgl.assistant(sgl.gen("who", max_tokens=5) + "!")

    backend = chat("Anna Magdalena")
    state = ask.run(backend=backend)
    assert state["who"] == "Anna "
    assert backend.requests[0].sampling.max_new_tokens == 5
    assert state.messages()[-1]["content"] == "Anna !"


def test_what_a_turn_wrote_is_read_after_it():
    @sgl.function(num_api_spec_tokens=80)
    def early(s):
        s += sgl.user("Who?")
        with s.assistant():
            s += "Name:" + sgl.gen("name", stop="\n") + "\nBorn:" + sgl.gen("born")
            s["name"]

    with pytest.raises(ProgramError, match="own scope or turn"):
        early.run(backend=chat("Name: Ann\nBorn: 1"))


def test_a_part_of_a_turn_has_no_form_of_its_own():
    @sgl.function(num_api_spec_tokens=80)
    def several(s):
        s += sgl.user("Who?")
        s += sgl.assistant("Name:" + sgl.gen("name", n=2) + "\nBorn:" + sgl.gen("born"))

    with pytest.raises(ProgramError, match=r"gen 'name'.*samples, a form"):
        several.run(backend=chat("Name: Ann\nBorn: 1"))["name"]
