"""A decoder small enough to be taught within minutes: the subject of the controlled experiment.

student(seed) -> LoadedModel        untrained; about 0.8 million weights

Its vocabulary is bytes and phrases, each a token: those of `walk` unless others are given. A digit
is a token, and so is a digit with the word or sign beside it (`add 3`, ` + 3`) and a count with its
word (`four left`), as in a vocabulary of words.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from evolute.envs.walks import COUNTS
from evolute.models import LoadedModel, ModelConfig
from evolute.models.tiny import tiny_weights
from evolute.models.token_bytes import byte_alphabet
from evolute.models.tokenizer import ChatTokenizer
from evolute.reasoning.demonstrations.trace import SOLUTION, SOLUTION_END, THOUGHT, THOUGHT_END

END, QUESTION, ANSWER = "<|im_end|>", "<|question|>", "<|answer|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|answer|>' if m.role == 'assistant' else '<|question|>' }}"
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}"
)
DIGITS = range(10)
PHRASES = (
    *(f"{THOUGHT}\n\n", f"{THOUGHT_END}\n\n{SOLUTION}\n\n", f"\n\n{SOLUTION_END}"),
    *(f" {sign} {digit}" for sign in "+-" for digit in DIGITS),
    *(f"{word} {digit}" for word in ("Begin with", "add", "take") for digit in DIGITS),
    *(f"{count} {word}" for word in ("left", "times") for count in COUNTS),
    *(", ", " and ", " in turn, ", ", mod ", "What is the end?", "Single steps", "Plan: "),
    *(
        "So the end is ",
        "The end is ",
        "Wait, ",
        " looks wrong",
        "Going back: ",
        "Check: ",
        "Alternatively, ",
    ),
    *(" = ", ": ", ". ", ".\n\n", "\n\n"),
)


def student(
    seed: int = 0,
    width: int = 128,
    num_layers: int = 4,
    phrases: Sequence[str] = PHRASES,
    spread: float = 0.02,
) -> LoadedModel:
    """A model that knows nothing; the same for the same arguments. `spread` is the standard
    deviation of its weights."""
    tokenizer = _tokenizer(phrases)
    config = ModelConfig(
        architecture="llama",
        vocab_size=tokenizer.vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=4,
        head_width=width // 4,
        ff_width=3 * width,
        context=1024,
        tie_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(tokenizer.eos_token_id,),
    )
    weights = tiny_weights(config, seed, spread * width**0.5 / 4)  # which scales by 4 / sqrt(width)
    return LoadedModel(f"student-{seed}", config, weights, tokenizer)


def _tokenizer(phrases: Sequence[str]) -> ChatTokenizer:
    vocab = {char: byte for byte, char in byte_alphabet().items()}
    vocab |= {text: 256 + i for i, text in enumerate((END, QUESTION, ANSWER))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True) for text in (END, QUESTION, ANSWER)]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in phrases])
    return ChatTokenizer(tokenizer, eos_token_id=256, template=TEMPLATE)
