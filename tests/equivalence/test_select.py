"""What select scores is what the model's own softmax says, also where a choice merges."""

import asyncio
import dataclasses
import itertools
import math

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import evolute.lang as sgl
from evolute.engine import Engine
from evolute.lang.backend import Prompt
from evolute.lang.choices import decide
from evolute.lang.endpoints import OnTokens
from evolute.models import Decoder, LoadedModel, causal_attention
from evolute.models.chat_template import CHATML
from evolute.models.tiny import CONFIG, SPECIAL, tiny_weights
from evolute.models.token_bytes import byte_alphabet
from evolute.models.tokenizer import ChatTokenizer

MERGES = [("a", "b"), ("ab", "c"), ("c", "d"), ("t", "h"), ("th", "e"), ("o", "n"), ("on", "e")]
ABS = 1e-4


def build():
    """The tiny network with a vocabulary that merges."""
    words = [*byte_alphabet().values(), *(a + b for a, b in MERGES)]
    vocab = {text: id for id, text in enumerate(words)}
    vocab |= {text: len(words) + i for i, text in enumerate(SPECIAL)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    end = vocab[SPECIAL[-1]]
    config = dataclasses.replace(CONFIG, vocab_size=len(vocab), eos_token_ids=(end,))
    chat = ChatTokenizer(tokenizer, eos_token_id=end, template=CHATML)
    return LoadedModel("merging", config, tiny_weights(config), chat)


MODEL = build()
DECODER = Decoder(MODEL.config)
DECODER.load(MODEL.weights)


@pytest.fixture(scope="module")
def engine():
    with Engine(MODEL, page_size=4) as engine:
        yield engine


def by_hand(prefix, continuation):
    """log p of each token of the continuation: one pass over all, the full softmax of each row."""
    ids = [*prefix, *continuation]
    with torch.no_grad():
        attend = causal_attention([len(ids)], None)
        hidden = DECODER(torch.tensor(ids), torch.arange(len(ids)), attend)
        rows = torch.log_softmax((hidden @ DECODER.head_weight.T).double(), -1)
    return [float(rows[len(prefix) + i - 1, id]) for i, id in enumerate(continuation)]


def expected(prompt, choice):
    """Tokens of the choice after what it has in common with the prompt, and both ways to write
    the text behind `base`, which is all that is certain."""
    p, q = MODEL.tokenizer.encode(prompt), MODEL.tokenizer.encode(prompt + choice)
    k = next((i for i, (a, b) in enumerate(zip(p, q)) if a != b), len(p))
    ways = {tuple(q), (*p, *MODEL.tokenizer.encode(choice))}
    return k, q, ways


def pick(engine, prompt, choices, method=None):
    backend = OnTokens(engine)
    return asyncio.run(decide(backend, Prompt.of(prompt), choices, method))


BOUNDARIES = [("x" + a, b) for a, b in MERGES]  # each prompt's last token merges with the choice


@pytest.mark.parametrize(("prompt", "merging"), BOUNDARIES, ids=str)
def test_a_choice_that_merges_with_the_prompt(engine, prompt, merging):
    choices = [merging, merging + "zz", "q", "no w"]
    decision = pick(engine, prompt, choices)
    means, joint = [], []
    found = [expected(prompt, choice) for choice in choices]
    assert len(found[0][1]) < len(MODEL.tokenizer.encode(prompt) + list(merging))  # it merged
    base = min(k for k, _, _ in found)
    for place, (k, q, ways) in enumerate(found):
        tokens = by_hand(q[:k], q[k:])
        means.append(sum(tokens) / len(tokens))
        told = decision.meta_info["input_token_logprobs"][place]
        assert [t[0] for t in told] == pytest.approx(tokens, abs=ABS)
        assert [t[1] for t in told] == q[k:]
        assert decision.meta_info["offsets"][place] == k
        joint.append(math.log(sum(math.exp(sum(by_hand(w[:base], w[base:]))) for w in ways)))
    assert decision.meta_info["scores"] == pytest.approx(means, abs=ABS)
    assert decision.meta_info["likelihoods"] == pytest.approx(joint, abs=ABS)
    assert decision.decision == choices[means.index(max(means))]
    whole = math.log(sum(map(math.exp, joint)))
    decision = pick(engine, prompt, choices, sgl.likelihood)
    shares = [math.exp(one - whole) for one in joint]
    assert decision.meta_info["probabilities"] == pytest.approx(shares, abs=ABS)
    assert decision.decision == choices[joint.index(max(joint))]


def test_the_other_methods_by_hand(engine):
    prompt, choices = "say: ", ["the cd", "one", "ab", "abz", "th"]
    plain = []
    for choice in choices:
        k, q, _ = expected(prompt, choice)
        plain.append((by_hand(q[:k], q[k:]), q[k:]))
    gains = []
    for tokens, ids in plain:
        alone = [0.0, *by_hand(ids[:1], ids[1:])]
        gains.append((sum(tokens) - sum(alone)) / len(ids))
    decision = pick(engine, prompt, choices, sgl.unconditional_likelihood_normalized)
    assert decision.meta_info["scores"] == pytest.approx(gains, abs=ABS)
    assert decision.decision == choices[gains.index(max(gains))]

    width = max(len(ids) for _, ids in plain)
    rows = [[*t, *[sum(t) / len(t)] * (width - len(t))] for t, _ in plain]
    left = list(range(len(rows)))
    for column in range(width):
        best = max(rows[i][column] for i in left)
        left = [i for i in left if rows[i][column] > best - 1e-9]
    decision = pick(engine, prompt, choices, sgl.greedy_token_selection)
    assert decision.decision == choices[left[0]]
    matrix = decision.meta_info["greedy_logprob_matrix"]
    assert list(itertools.chain(*matrix)) == pytest.approx(list(itertools.chain(*rows)), abs=ABS)


def test_all_choices_share_one_pass_over_the_prompt(engine):
    engine.flush_cache()
    before = engine.stats().counts.computed_tokens
    prompt, choices = "a long prompt of many tokens, " * 8, ["cat", "dog", "cow", "hen"]

    @sgl.function
    def ask(s):
        s += prompt + sgl.select("animal", choices)

    state = ask.run(backend=engine)
    assert state["animal"] in choices
    computed = engine.stats().counts.computed_tokens - before
    length = len(MODEL.tokenizer.encode(prompt))
    assert computed <= length + 4 * (3 + 5)  # the last page may be computed again for each choice
    assert state.spent.calls == 4
    assert state.spent.prompt_tokens == 4 * (length + 3)


def test_a_temperature_draws_by_the_probabilities(engine):
    async def draw():
        backend = OnTokens(engine)
        drawn = [
            await decide(backend, Prompt.of("say "), ["x", "y"], sgl.likelihood, 1.0, seed)
            for seed in range(200)
        ]
        return drawn

    drawn = asyncio.run(draw())
    share = drawn[0].meta_info["probabilities"][0]
    count = sum(one.decision == "x" for one in drawn)
    assert abs(count / 200 - share) < 4 * math.sqrt(share * (1 - share) / 200) + 1e-9


@pytest.mark.parametrize("choices", [[], ["a", "a"], ["a", ""], "ab", None, ["a", 1]], ids=repr)
def test_choices_that_cannot_be_are_refused_at_once(choices):
    with pytest.raises(ValueError, match=r"choices|chosen"):
        sgl.select("x", choices=choices)
    if choices is not None:
        with pytest.raises(ValueError, match=r"choices|chosen"):
            sgl.gen("x", choices=choices)


def test_a_choice_may_begin_another(engine):
    decision = pick(engine, "x", ["a", "ab", "abc"])
    assert decision.decision in ("a", "ab", "abc")
    assert sum(decision.meta_info["probabilities"]) == pytest.approx(1.0)


def test_a_prompt_of_one_token_that_would_merge_is_scored_apart(engine):
    decision = pick(engine, "a", ["b", "z"])
    told = [t[0] for t in decision.meta_info["input_token_logprobs"][0]]
    p, b = MODEL.tokenizer.encode("a"), MODEL.tokenizer.encode("b")
    assert told == pytest.approx(by_hand(p, b), abs=ABS)


def test_without_a_prompt_there_is_nothing_to_score_after(engine):
    @sgl.function
    def bare(s):
        s += sgl.select("x", ["a", "b"])

    assert "nothing predicts the first token" in str(bare.run(backend=engine).error())
