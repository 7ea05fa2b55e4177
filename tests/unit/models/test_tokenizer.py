"""Tokens and their bytes, and chat templates: what is left open, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from evolute.models import load_model
from evolute.models.chat_template import CHATML, ChatTemplate
from evolute.models.token_bytes import token_bytes
from evolute.models.tokenizer import ChatTokenizer
from evolute.types import ModelError, RequestError


def sentence_piece(metaspace=False):
    """As Llama 2 writes it: words with U+2581, other characters byte by byte."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", "a", "b", "\u00e9", "\u2581a", "\u2581ab", "ab", ".", "\u2581\u2581"]
    merges = [("\u2581", "a"), ("\u2581a", "b"), ("a", "b"), ("\u2581", "\u2581")]
    vocab = {word: id for id, word in enumerate(words)}
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
        )
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


WITH_PREFIX, METASPACE = sentence_piece(), sentence_piece(metaspace=True)


@given(st.text("ab. \u00e9\u6771\n<0xA", max_size=20))
def test_bytes_of_sentence_piece_tokens_make_up_the_text(text):
    for tokenizer in (WITH_PREFIX, METASPACE):
        table = token_bytes(tokenizer)
        joined = b"".join(table[id] for id in tokenizer.encode(text).ids)
        assert joined.decode() in (text, " " + text)


@pytest.mark.parametrize("tokenizer", [WITH_PREFIX, METASPACE])
def test_bytes_of_sentence_piece_tokens(tokenizer):
    table = token_bytes(tokenizer)
    expected = {"<0x0A>": b"\n", "\u2581ab": b" ab", "\u00e9": "\u00e9".encode(), "</s>": b"</s>"}
    assert {word: table[tokenizer.token_to_id(word)] for word in expected} == expected


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m"])
def test_bytes_of_byte_level_tokens_make_up_the_text(name):
    tokenizer = load_model(name).tokenizer
    text = "a naïve \u6771 \U0001f642\n\t  x <|im_end|> \u00e9"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode() == text
    assert tokenizer.token_bytes(10**6) == b""


def test_a_tokenizer_of_another_kind_is_refused():
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##b": 1, "[UNK]": 2}))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match=r"WordPiece.*SentencePiece are supported"):
        token_bytes(tokenizer)


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("content", ["", " ", "The answer is ", "\n", "x\n\n", "Hi", "assistant"])
def test_a_turn_left_open_ends_with_its_content(content):
    tokenizer = load_model("tiny").tokenizer
    turns = [USER, {"role": "assistant", "content": content}]
    text = tokenizer.decode(
        tokenizer.chat(turns, continue_final_message=True), skip_special_tokens=False
    )
    assert text == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{content}"


def test_a_template_that_trims_leaves_the_end_of_an_open_turn():
    template = ChatTemplate("{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}")
    assert template.open([USER, {"role": "assistant", "content": "so, "}]) == "[Hi][so, "
    assert template.render([USER, {"role": "assistant", "content": "so, "}]) == "[Hi][so,]"


def test_what_cannot_be_continued_is_refused():
    template = ChatTemplate("{{ messages[0]['content'] }}")
    with pytest.raises(RequestError, match="leaves out the last message"):
        template.open([USER, {"role": "assistant", "content": "x"}])
    with pytest.raises(RequestError, match="no message to continue"):
        template.open([])


@pytest.mark.parametrize("source", ["{% for %}", "{{ a", "{% endif %}", "{% unknown %}"])
def test_a_broken_template_is_a_model_error(source):
    with pytest.raises(ModelError, match="chat template cannot be compiled"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('no system') }}", "{{ 1 / 0 }}", "{{ messages[9].x.y }}"]
)
def test_a_template_that_fails_refuses_the_request(source):
    with pytest.raises(RequestError, match="refuses these messages"):
        ChatTemplate(source).render([USER])


def test_a_template_cannot_reach_python():
    with pytest.raises(RequestError, match="refuses"):
        ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}").render([USER])


def test_templates_use_what_transformers_offers():
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') | int > 0 }}"
    )
    assert ChatTemplate(source).render([{"role": "user", "content": "é<"}, USER]) == (
        '{"role": "user", "content": "é<"}True'
    )


@pytest.fixture
def directory(tmp_path):
    tokenizer = sentence_piece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def settings(directory, **values):
    (directory / "tokenizer_config.json").write_text(json.dumps(values))


def test_stop_ids_come_from_settings_config_and_names(directory):
    settings(directory, eos_token={"content": "<s>"})
    tokenizer = ChatTokenizer.from_directory(directory, eos_token_ids=(7, 8))
    assert tokenizer.eos_token_id == 1
    assert tokenizer.stop_token_ids == {1, 2, 7, 8}


def test_without_settings_the_config_names_the_end(directory):
    assert ChatTokenizer.from_directory(directory, eos_token_ids=(7,)).eos_token_id == 7
    assert ChatTokenizer.from_directory(directory).eos_token_id == 2


def test_a_word_that_looks_like_an_end_is_none(tmp_path):
    model = models.BPE(vocab={"a": 0, "</s>": 1, "<unk>": 2}, merges=[], unk_token="<unk>")
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    assert ChatTokenizer.from_directory(tmp_path, (0,)).stop_token_ids == {0}
    with pytest.raises(ModelError, match="set eos_token in"):
        ChatTokenizer.from_directory(tmp_path)


def test_of_several_templates_the_default_is_taken(directory):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    settings(directory, chat_template=named)
    assert ChatTokenizer.from_directory(directory).template.source == "D"
    settings(directory, chat_template=named[:1])
    with pytest.raises(ModelError, match="no chat template of name 'default'"):
        ChatTokenizer.from_directory(directory)
    (directory / "chat_template.jinja").write_text(CHATML)
    assert ChatTokenizer.from_directory(directory).template.source == CHATML


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "cannot be read"),
        ("tokenizer_config.json", "[1]", "holds no JSON object"),
        ("tokenizer_config.json", "{", "is not readable JSON"),
        ("chat_template.jinja", "{% for %}", "cannot be compiled"),
        ("chat_template.jinja", b"\xff\xfe", "cannot be read"),
    ],
)
def test_damaged_files_are_named(file, content, message, directory):
    content = content if isinstance(content, bytes) else content.encode()
    (directory / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        ChatTokenizer.from_directory(directory)
