"""Text that one call wrote too much answers later gens, to the letter, or is given up."""

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, Text, TextRequest
from evolute.lang.speculation import Hole, Surplus, SurplusCounts, fill, match
from evolute.testing import ByteTokenizer
from evolute.types import ConfigError, FinishReason, Output, SamplingParams

BYTES = ByteTokenizer()


class Endpoint:
    """Goes on with the text that it has in mind, wherever a prompt stands in it; elsewhere with
    question marks. The next character depends on the prompt alone, as with greedy decoding."""

    def __init__(self, whole, *, tells_tokens=False):
        self.whole = whole
        self.capabilities = Capabilities(completes=True, tokens=tells_tokens)
        self.requests = []

    async def generate(self, request):
        self.requests.append(request)
        sampling, prompt = request.sampling, request.prompt.text
        rest = self.whole[len(prompt) :]
        if not self.whole.startswith(prompt):
            rest = "?" * (-len(prompt) % 7)
        text, reason, stop = rest, FinishReason.STOP, None
        for size in range(len(rest) + 1):  # a stop counts once it is complete
            hit = [s for s in sampling.stop if rest[:size].endswith(s)]
            if hit:
                stop = max(hit, key=len)
                text = rest[: size if sampling.include_stop else size - len(stop)]
                break
            most, own = sampling.max_new_tokens, len(BYTES.encode(rest[: size + 1]))
            if len(BYTES.encode(rest[:size])) >= most or own > most:  # within a character
                text, reason = rest[:size], FinishReason.LENGTH
                break
        ids = tuple(BYTES.encode(text)) if self.capabilities.tokens else ()
        output = Output(text, ids, (0.0,) * len(ids), reason, 0, 0, matched_stop=stop)
        count = len(BYTES.encode(text)) + (reason == "stop" and stop is None)  # the end is a token
        return Reply((output,), Spent(1, len(prompt), 0, count), ((),))

    async def encode(self, prompt):
        return tuple(BYTES.encode(prompt.text))

    async def decode(self, token_ids):
        return BYTES.decode(token_ids)


def run(endpoint, program, surplus=None):
    """`program`: texts, and samplings of gens. Returns the gens' outputs and what was spent."""

    async def go():
        prompt, outputs, spent = Prompt(), [], Spent()
        for part in program:
            if isinstance(part, str):
                if surplus:
                    surplus.constant(part)
                prompt = prompt.then(Text(part))
                continue
            request = TextRequest(prompt, part)
            reply = (
                await surplus.gen(request, endpoint)
                if surplus
                else await endpoint.generate(request)
            )
            (output,) = reply.outputs
            outputs.append((output.text, output.finish_reason, output.matched_stop))
            spent += reply.spent
            prompt = prompt.then(Text(output.text))
        if surplus:
            surplus.close()
        return outputs, spent

    return asyncio.run(go())


def line(most=20, **sampling):
    return SamplingParams(max_new_tokens=most, temperature=0, stop=("\n",), **sampling)


FORM = "Form.\nName: Ann\nBorn: 1912\nTown: Ulm\n"
ASKS = ["Form.\nName:", line(), "\nBorn:", line(), "\nTown:", line()]


@pytest.mark.parametrize("tells_tokens", [True, False])
@pytest.mark.parametrize("tokenizer", [BYTES, None])
def test_three_gens_cost_one_call_when_the_model_writes_what_the_program_says(
    tells_tokens, tokenizer
):
    counts = SurplusCounts()
    endpoint = Endpoint(FORM, tells_tokens=tells_tokens)
    expected, plainly = run(Endpoint(FORM), ASKS)
    outputs, spent = run(endpoint, ASKS, Surplus(100, counts, tokenizer))
    assert outputs == expected
    assert [text for text, _, _ in outputs] == [" Ann", " 1912", " Ulm"]
    assert len(endpoint.requests) == 1 and (spent.calls, spent.calls_saved) == (1, 2)
    assert spent.prompt_tokens < plainly.prompt_tokens  # what speculation is for
    assert (counts.hits, counts.misses) == (2, 0)
    assert counts.tokens_wasted == (1 if tokenizer else 0)  # the last line's end
    (asked,) = [r.sampling for r in endpoint.requests]
    assert asked.stop == () and asked.max_new_tokens == 100


def test_another_text_than_the_programs_is_given_up_and_counted():
    counts = SurplusCounts()
    endpoint = Endpoint("A: x\nB: y\nC: z\n")
    program = ["A:", line(), "\nB:", line(), "\nX:", line()]
    outputs, spent = run(endpoint, program, Surplus(50, counts, BYTES))
    assert [text for text, _, _ in outputs] == [" x", " y", "??"]
    assert (spent.calls, counts.hits, counts.misses) == (2, 1, 1)
    assert counts.tokens_wasted == len("\nC: z\n")


def test_what_ends_within_a_gen_is_asked_for_again():
    endpoint, counts = Endpoint(FORM), SurplusCounts()
    outputs, spent = run(endpoint, ASKS, Surplus(12, counts, BYTES))  # ends within "Born"
    assert outputs == run(Endpoint(FORM), ASKS)[0]
    assert spent.calls == 2


def test_a_gen_that_is_cut_by_its_tokens_leaves_the_rest():
    endpoint, counts = Endpoint("Say: abcdefghij"), SurplusCounts()
    program = ["Say:", SamplingParams(max_new_tokens=3, temperature=0), "cd"]
    program += [SamplingParams(max_new_tokens=2, temperature=0)]
    outputs, spent = run(endpoint, program, Surplus(50, counts, BYTES))
    assert outputs == [(" ab", "length", None), ("ef", "length", None)]
    assert spent.calls == 1


def test_without_a_count_only_gens_with_a_stop_are_answered():
    endpoint, counts = Endpoint(FORM), SurplusCounts()
    program = [*ASKS[:3], SamplingParams(max_new_tokens=3, temperature=0)]
    outputs, spent = run(endpoint, program, Surplus(100, counts))
    assert outputs[1] == (" 19", "length", None)
    assert (spent.calls, counts.misses) == (2, 1)
    first = endpoint.requests[1].sampling
    assert first.max_new_tokens == 3  # nothing is asked for that could not be cut


def test_without_a_count_a_text_without_its_stop_is_asked_for_again_when_it_may_be_too_long():
    endpoint, counts = Endpoint("Say: " + "x" * 99), SurplusCounts()
    outputs, spent = run(endpoint, ["Say:", line(5)], Surplus(50, counts))
    assert outputs == [(" xxxx", "length", None)]
    assert (spent.calls, spent.output_tokens, counts.misses) == (2, 55, 1)
    endpoint, counts = Endpoint("Say: xx"), SurplusCounts()
    outputs, spent = run(endpoint, ["Say:", line(5)], Surplus(50, counts))
    assert outputs == [(" xx", "stop", None)] and spent.calls == 1  # the bill says four


def test_the_end_of_the_models_own_text_ends_a_gen():
    outputs, spent = run(
        Endpoint("A: x\nB: y"), ["A:", line(), "\nB:", line()], Surplus(50, SurplusCounts(), BYTES)
    )
    assert outputs == [(" x", "stop", "\n"), (" y", "stop", None)] and spent.calls == 1


@pytest.mark.parametrize(
    "sampling",
    [
        line(n=2),
        line(regex="[a-z]+"),
        line(stop_regex=("x",)),
        line(stop_token_ids=(5,)),
        line(min_new_tokens=2),
        line(top_logprobs=1),
    ],
    ids=["n", "regex", "stop_regex", "stop_token_ids", "min", "logprobs"],
)
def test_gens_that_only_the_endpoint_can_end_or_shape_are_called_as_ever(sampling):
    endpoint = Endpoint(FORM)
    run(endpoint, ["Form.\nName:", sampling], Surplus(50, SurplusCounts(), BYTES))
    assert [r.sampling for r in endpoint.requests] == [sampling]


def test_gens_of_another_sampling_are_refused_with_both_values():
    program = [*ASKS[:3], dataclasses.replace(line(), temperature=0.5)]
    with pytest.raises(ConfigError, match=r"temperature 0\.5, but .* for 0"):
        run(Endpoint(FORM), program, Surplus(50, SurplusCounts(), BYTES))


def test_a_prompt_that_went_another_way_is_not_answered_from_what_is_left():
    async def go():
        surplus, endpoint = Surplus(50, SurplusCounts(), BYTES), Endpoint(FORM)
        prompt = Prompt.of("Form.\nName:")
        await surplus.gen(TextRequest(prompt, line()), endpoint)
        other = TextRequest(Prompt.of("Form.\nName: Bob\nBorn:"), line())
        await surplus.gen(other, endpoint)
        assert endpoint.requests[1].prompt == other.prompt

    asyncio.run(go())
    with pytest.raises(ConfigError, match="num_api_spec_tokens is 0"):
        Surplus(0, SurplusCounts())


stops = st.lists(st.sampled_from(["\n", ".", "b", "ab", "\n\n"]), max_size=2, unique=True)
gens = st.builds(
    lambda most, stop, keep: SamplingParams(
        max_new_tokens=most, temperature=0, stop=tuple(stop), include_stop=keep and bool(stop)
    ),
    st.integers(1, 12),
    stops,
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet="ab.\nü", max_size=40),
    st.lists(gens, min_size=1, max_size=6),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.integers(1, 40),
    st.booleans(),
)
def test_texts_are_those_of_ordinary_calls(whole, samplings, skips, num_tokens, tells_tokens):
    """Constants are what the model writes anyway, or not."""
    whole = "P:" + whole
    plain, program = Endpoint(whole), ["P:"]
    for sampling, skip in zip(samplings, skips):
        outputs, _ = run(plain, [*program, sampling])
        texts = [p for p in program if isinstance(p, str)] + [text for text, _, _ in outputs]
        at = len("".join(texts))
        constant = whole[at : at + skip] if skip < 3 else "x"
        program += [sampling, *([constant] if constant else [])]
    expected, _ = run(Endpoint(whole), program)
    counts = SurplusCounts()
    endpoint = Endpoint(whole, tells_tokens=tells_tokens)
    found, spent = run(endpoint, program, Surplus(num_tokens, counts, BYTES))
    assert [(text, reason) for text, reason, _ in found] == [
        (text, reason) for text, reason, _ in expected
    ]
    assert spent.calls + spent.calls_saved == len(samplings)
    assert spent.calls_saved == counts.hits
    assert len(endpoint.requests) == spent.calls


A, B = Hole("a", ("\n",)), Hole("b", ("\n",))


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("Name: Ann\nBorn: 1912\n", ["Name:", A, "\nBorn:", B], {"a": " Ann", "b": " 1912"}),
        ("Name: Ann\nBorn: 1912", ["Name:", A, "\nBorn:", B, "\n"], {"a": " Ann", "b": " 1912"}),
        ("Name: Ann", [" Name:", A], {"a": " Ann"}),
        ("Name: Ann\nDied: 1912\n", ["Name:", A, "\nBorn:", B], None),
        ("Sure! Name: Ann", ["Name:", A], None),
        ("I am Ann, 9.", ["I am", Hole("a"), ",", Hole("b", (".",))], {"a": " Ann", "b": " 9"}),
        ("Name: Ann", ["Name:", Hole("a"), ", born", B], None),
        ("xy", [Hole("a"), Hole("b")], None),
        ("x\ny", [A, B], {"a": "x", "b": ""}),
        ("x\n\ny", [A, "\n", B], {"a": "x", "b": ""}),
        ("", [A], {"a": ""}),
        ("", ["Name:", A], None),
    ],
)  # fmt: skip
def test_a_turn_is_matched_to_the_letter(text, pattern, expected):
    assert match(text, pattern) == expected


class Chat:
    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    async def generate(self, request):
        self.requests.append(request)
        text = self.answers[len(self.requests) - 1]
        output = Output(text, (), (), FinishReason.STOP, 0, 0)
        return Reply((output,), Spent(1, 10, 0, len(text)), ((),))


def test_a_turn_is_asked_for_at_most_three_times_and_once_when_greedy():
    counts = SurplusCounts()
    pattern = ["Name:", A, "\nBorn:", B]
    chat = Chat("no", "Name: x\nBorn: 1\n")
    warm = TextRequest(Prompt(), SamplingParams(temperature=0.5, seed=7, stop=("\n",)))
    turn = asyncio.run(fill(warm, chat, pattern, counts))
    assert turn.texts == {"a": " x", "b": " 1"}
    assert turn.spent == Spent(2, 20, 0, 2 + 16, 1)
    assert (counts.hits, counts.misses, counts.tokens_wasted) == (1, 1, 2)
    assert [r.sampling.seed for r in chat.requests] == [7, 8]
    assert chat.requests[0].sampling.stop == ()
    chat = Chat("no", "no", "no", "no")
    assert asyncio.run(fill(warm, chat, pattern, counts)).texts is None
    assert len(chat.requests) == 3
    chat = Chat("no")
    greedy = TextRequest(Prompt(), SamplingParams(temperature=0))
    assert asyncio.run(fill(greedy, chat, pattern, counts)).texts is None
    assert len(chat.requests) == 1
