"""Rows to tokens and masks: what is learned of a talk, and what is refused."""

import json

import pytest

from evolute.models import load_model
from evolute.models.chat_template import ChatTemplate
from evolute.train.sft.data import SOLUTION, fit, read, sample_of
from evolute.types import ConfigError

TOKENIZER = load_model("tiny").tokenizer
TALK = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]


def file_of(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def trained(sample):
    ids = [t for t, m in zip(sample.response_ids, sample.loss_mask) if m]
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def whole(sample):
    ids = [*sample.prompt_ids, *sample.response_ids]
    return TOKENIZER.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("train_on", "learned"),
    [("assistant", "two<|im_end|>four<|im_end|>"), ("last", "four<|im_end|>")],
)
def test_the_assistants_turns_and_their_ends_are_learned(train_on, learned):
    sample = sample_of(TALK, TOKENIZER, train_on)
    assert trained(sample) == learned
    rendered = TOKENIZER.template.render(TALK, add_generation_prompt=False)
    assert whole(sample) == rendered.removesuffix("\n")


def test_the_prompt_is_what_the_engine_would_be_sent():
    sample = sample_of(TALK, TOKENIZER, "last")
    assert list(sample.prompt_ids) == TOKENIZER.chat(TALK[:3])


def test_all_leaves_out_the_first_token_only():
    sample = sample_of(TALK, TOKENIZER, "all")
    assert len(sample.prompt_ids) == 1 and all(sample.loss_mask)


def test_solution_begins_at_its_tag():
    talk = [TALK[0], {"role": "assistant", "content": f"thoughts {SOLUTION} 42"}]
    assert trained(sample_of(talk, TOKENIZER, "solution")) == f"{SOLUTION} 42<|im_end|>"
    with pytest.raises(ConfigError, match="begin_of_solution"):
        sample_of(TALK, TOKENIZER, "solution")


def test_both_forms_are_read_alike(tmp_path):
    share = [
        {"from": "human", "value": "one"},
        {"from": "gpt", "value": "two"},
        {"from": "user", "value": "three"},
        {"from": "assistant", "value": "four"},
    ]
    rows = ({"messages": TALK, "id": 7}, "", {"conversations": share})
    first, second = read(file_of(tmp_path, *rows), TOKENIZER, "assistant")
    assert first == second
    rows = (
        {"system": "S", "conversations": share},
        {"messages": [{"role": "system", "content": "S"}, *TALK]},
    )
    first, second = read(file_of(tmp_path, *rows), TOKENIZER, "assistant")
    assert first == second and whole(first).startswith("<|im_start|>system\nS<|im_end|>")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{torn", "line 2: it is no JSON"),
        ("[1]", "no JSON object"),
        ({"text": "x"}, "either 'messages' or 'conversations'"),
        ({"messages": []}, "list of turns"),
        ({"messages": [{"role": "user"}]}, "'role' and 'content'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'robot'"),
        ({"messages": TALK[:1]}, "nothing to learn"),
        ({"system": "a", "messages": [{"role": "system", "content": "b"}, *TALK]}, "two system"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, message):
    path = file_of(tmp_path, {"messages": TALK}, row)
    with pytest.raises(ConfigError, match=r"rows\.jsonl.*line 2") as caught:
        read(path, TOKENIZER, "assistant")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\n"])
def test_a_file_without_rows_is_told(tmp_path, content):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=r"rows\.jsonl"):
        read(tmp_path / "rows.jsonl", TOKENIZER, "assistant")
    with pytest.raises(ConfigError, match="gone"):
        read(tmp_path / "gone.jsonl", TOKENIZER, "assistant")


def test_a_template_that_rewrites_earlier_turns_is_refused_unless_the_last_alone_counts(
    monkeypatch,
):
    forgets = ChatTemplate(
        "{% for m in messages %}[{{ m.role }}]"
        "{{ m.content if loop.last or m.role == 'user' else '...' }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    monkeypatch.setattr(TOKENIZER, "template", forgets)
    with pytest.raises(ConfigError, match="rewrites"):
        sample_of(TALK, TOKENIZER, "assistant")
    assert trained(sample_of(TALK, TOKENIZER, "last")) == "four<|im_end|>"


def test_a_template_without_an_end_gets_the_models_own(monkeypatch):
    plain = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                         "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    monkeypatch.setattr(TOKENIZER, "template", plain)
    assert trained(sample_of(TALK, TOKENIZER, "assistant")) == "twofour<|im_end|>"


def test_what_is_too_long_is_refused_dropped_or_cut():
    short, long = (
        sample_of([TALK[0], {"role": "assistant", "content": "x" * n}], TOKENIZER, "last")
        for n in (1, 50)
    )
    limit = len(short.prompt_ids) + 10
    with pytest.raises(ConfigError, match="row 2 has"):
        fit([short, long], limit, "refuse")
    dropped = fit([short, long], limit, "drop")
    assert dropped.samples == [short] and (dropped.num_dropped, dropped.num_cut) == (1, 0)
    cut = fit([short, long], limit, "cut")
    assert cut.samples[1].response_ids == long.response_ids[:10] and cut.num_cut == 1
    with pytest.raises(ConfigError, match="no row is left"):
        fit([long], len(long.prompt_ids), "cut")


def sample(prompt=(256, 104), ids=(105, 106, 107), mask=(True, False, True)):
    return {"prompt_ids": list(prompt), "response_ids": list(ids), "loss_mask": list(mask)}


def test_a_recorded_trajectory_is_learned_token_by_token(tmp_path):
    whole_row = {
        "reward": 1.0,
        "samples": [sample(), sample(prompt=(99,)), sample(mask=(False,) * 3)],
    }
    found = read(file_of(tmp_path, whole_row, {"messages": TALK}), TOKENIZER, "assistant")
    assert len(found) == 3, "a sample without a sampled token teaches nothing"
    assert found[0].prompt_ids == (256, 104) and found[1].prompt_ids == (99,)
    assert found[0].response_ids == (105, 106, 107)
    assert found[0].loss_mask == (True, False, True)
    assert trained(found[2]) == "two<|im_end|>four<|im_end|>"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"samples": 3}, "no list"),
        ({"samples": [3]}, "no object"),
        ({"samples": [{"prompt_ids": [1]}]}, "lists"),
        ({"samples": [sample(ids=(1, 2))]}, "alike in length"),
        ({"samples": [sample(prompt=())]}, "empty"),
        ({"samples": [sample(ids=(1, 2, 259))]}, "259 tokens"),
        ({"samples": [sample(ids=(1, 2, True))]}, "ids"),
        ({"samples": [sample(mask=(1, 0, 1))]}, "loss_mask"),
    ],
)
def test_what_is_no_recorded_trajectory_is_refused(tmp_path, row, why):
    with pytest.raises(ConfigError, match=f"line 1: .*{why}"):
        read(file_of(tmp_path, row), TOKENIZER, "assistant")


@pytest.mark.parametrize("train_on", ["last", "solution", "all"])
def test_a_recorded_trajectory_has_its_own_mask(tmp_path, train_on):
    with pytest.raises(ConfigError, match="masks"):
        read(file_of(tmp_path, {"samples": [sample()]}), TOKENIZER, train_on)
