"""select on endpoints that complete texts: what they echo is what an engine scores."""

import pytest

import evolute.lang as sgl
from evolute.engine import Engine
from evolute.lang.echoes import Echo, _behind
from evolute.server import create_app, serve_in_thread
from evolute.types import ProgramError

PROMPT, CHOICES = "The weather in Ulm is ", ["sunny", "sun", "rainy and cold", "x"]
METHODS = [
    sgl.token_length_normalized,
    sgl.greedy_token_selection,
    sgl.unconditional_likelihood_normalized,
]


@pytest.fixture(scope="module")
def served():
    with Engine("tiny", page_size=4) as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        yield engine, server.url
        server.stop()


@sgl.function
def pick(s, method):
    s += PROMPT + sgl.select("sky", choices=CHOICES, choices_method=method)
    s += "." + sgl.gen("more", max_tokens=2)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_an_endpoint_of_texts_chooses_as_the_engine_does(served, method):
    engine, url = served
    endpoint = sgl.OpenAI("tiny", is_chat_model=False, base_url=f"{url}/v1", api_key="k")
    own = pick.run(method, backend=engine)
    told = pick.run(method, backend=endpoint)
    endpoint.close()
    assert told["sky"] == own["sky"]
    theirs, ours = told.get_meta_info("sky"), own.get_meta_info("sky")
    assert theirs["scores"] == pytest.approx(ours["scores"], abs=1e-4)
    assert theirs["probabilities"] == pytest.approx(ours["probabilities"], abs=1e-4)
    alone = 4 if method.needs_unconditional else 0
    assert told.spent.calls == 1 + len(CHOICES) + alone + 1


def test_a_choice_that_merges_with_the_prompt_counts_from_the_merged_token():
    alone = Echo(("a", "b", "x"), (None, -1.0, -2.0), sgl.Spent())
    whole = Echo(("a", "b", "xy", "z"), (None, -1.0, -3.0, -4.0), sgl.Spent())
    told = _behind(alone, whole)
    assert (told.tokens, told.logprobs, told.offset) == (("xy", "z"), (-3.0, -4.0), 2)


def test_what_cannot_be_scored_is_refused_by_name(served):
    _, url = served
    texts = sgl.OpenAI("tiny", is_chat_model=False, base_url=f"{url}/v1", api_key="k")
    with pytest.raises(ProgramError, match=r"select 'sky'.*two ways"):
        pick.run(sgl.likelihood, backend=texts)["sky"]

    @sgl.function
    def chat(s):
        s += sgl.user("Sky?") + sgl.assistant(sgl.select("sky", choices=CHOICES))

    chats = sgl.OpenAI("tiny", base_url=f"{url}/v1", api_key="k")
    with pytest.raises(ProgramError, match=r"select 'sky'.*does not score tokens"):
        chat.run(backend=chats)["sky"]
    texts.close()
    chats.close()
