"""Append-only tokenisation of a talk equals that of the complete chat.

For templates that write every turn in the same way, as the embedded model's ChatML does. The
model's own text must not begin with white space: a complete chat would join that to the template's
line break, which is the drift that keeping sampled ids avoids.
"""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.envs.observation import observation_ids
from evolute.models import load_model
from evolute.testing import ByteTokenizer
from evolute.types import EpisodeError

NAMED = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(["", "\n\n", *NAMED])
actions = texts.filter(
    lambda text: text[:1].strip() == text[:1] and not any(name in text for name in NAMED)
)
observations = st.lists(
    st.tuples(st.sampled_from(["user", "system", "tool"]), texts), max_size=2
).map(lambda pairs: [{"role": role, "content": text} for role, text in pairs])
talks = st.lists(st.tuples(actions, observations), min_size=1, max_size=4)


@cache
def embedded():
    return load_model("smollm2-135m").tokenizer


def appended(tokenizer, question, talk, *, ends=True):
    """Token ids as an episode appends them, and the chat that they stand for."""
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.chat(chat)
    for action, said in talk:
        ids += tokenizer.encode(action)
        if ends:
            ids.append(tokenizer.eos_token_id)
        ids += observation_ids(tokenizer, said, ids)
        chat += [{"role": "assistant", "content": action}, *said]
    return ids, chat


@settings(max_examples=200, deadline=None)
@given(question=texts, talk=talks, ends=st.booleans())
def test_appending_turns_gives_the_tokens_of_the_complete_chat(question, talk, ends):
    tokenizer = embedded()
    ids, chat = appended(tokenizer, question, talk, ends=ends)
    assert ids == tokenizer.chat(chat)


def test_the_separator_after_a_turn_belongs_to_the_observation():
    tokenizer = embedded()
    said = [{"role": "user", "content": "higher"}]
    ids = observation_ids(tokenizer, said, [tokenizer.eos_token_id])
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_rewrites_earlier_turns_changes_nothing():
    class Forgetful(ByteTokenizer):
        """Drops what assistants said, unless it is the last message."""

        def chat(self, messages, **options):
            kept = [
                {**m, "content": ""} if m["role"] == "assistant" and m is not messages[-1] else m
                for m in messages
            ]
            return super().chat(kept, **options)

    said = [{"role": "user", "content": "higher"}]
    plain, forgetful = (observation_ids(t, said, [256]) for t in (ByteTokenizer(), Forgetful()))
    assert plain == forgetful


def test_a_template_without_ends_is_refused():
    class Endless(ByteTokenizer):
        def chat(self, messages, **options):
            return [id for id in super().chat(messages, **options) if id < 256]

    with pytest.raises(EpisodeError, match="ends no turn with a stop token"):
        observation_ids(Endless(), [{"role": "user", "content": "x"}], [])
