"""From a teacher to a training set: sampled once, resumed, reformatted, verified, curated."""

import asyncio
import json

import pytest

from evolute.envs import make_task
from evolute.lang.account import Account, Budget
from evolute.models import load_model
from evolute.reasoning.demonstrations import trace as trace_module
from evolute.reasoning.demonstrations.curate import at_most, decontaminate, dedupe
from evolute.reasoning.demonstrations.measures import gain_kept, measure
from evolute.reasoning.demonstrations.reformat import Rejected, change_of, reformat, rewrite
from evolute.reasoning.demonstrations.sample import SampleSettings, problems_of, read_raw, sample
from evolute.reasoning.demonstrations.student import student
from evolute.reasoning.demonstrations.trace import Step, Trace, parse, render, segment, training_row
from evolute.reasoning.demonstrations.verify import sort_raw
from evolute.testing import ScriptedTextBackend
from evolute.train.sft import data
from evolute.types import BackendError, ConfigError, RequestError

TASK = make_task("addition-1")
GOOD = render(Trace((), (Step("STEP", "I add."), Step("DOUBT", "Wait, I check.")), "{}"))

SWAPPED = GOOD.replace("begin", "x").replace("end_of", "begin_of").replace("x_of", "end_of")


def teacher(share_wrong=0.0):
    """Right answers in blocks, a share of wrong ones by the seed of the request."""

    def answer(request):
        numbers = [int(w) for w in request.prompt.text.replace("?", " ").split() if w.isdigit()]
        wrong = (request.sampling.seed % 1000) / 1000 < share_wrong
        return GOOD.format(sum(numbers[-2:]) + wrong)

    return ScriptedTextBackend(answer)


def ask(backend, path, **options):
    account = options.pop("account", None)
    settings = SampleSettings(**{"count": 12, "samples": 2, **options})
    return asyncio.run(sample(TASK, backend, path, settings, account=account))


def test_each_answer_is_kept_once_and_a_second_call_asks_nothing(tmp_path):
    backend, path = teacher(), tmp_path / "raw.jsonl"
    report = ask(backend, path)
    assert (report.num_made, report.num_left, report.spent.calls) == (24, 0, 24)
    again = ask(backend, path)
    assert (again.num_made, again.num_there) == (0, 24) and len(backend.requests) == 24
    keys = [(row["problem_id"], row["sample"]) for row in read_raw(path)]
    assert len(set(keys)) == len(keys) == 24
    seeds = {request.sampling.seed for request in backend.requests}
    assert len(seeds) == 24


def test_killed_between_two_answers_it_goes_on_to_the_same_set(tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    ask(teacher(0.4), whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:9]) + lines[9][:20])  # torn in the tenth

    def rows(path):
        return sorted(json.dumps(row) for row in read_raw(path))

    report = ask(teacher(0.4), cut)
    assert report.num_there == 8 and rows(cut) == rows(whole)


def test_a_budget_ends_the_call_and_the_next_one_goes_on(tmp_path):
    backend, path = teacher(), tmp_path / "raw.jsonl"
    report = ask(backend, path, account=Account(Budget(calls=10)))
    assert (report.num_made, report.num_left) == (10, 14) and len(backend.requests) == 10
    assert "BudgetSpent" in report.failures
    assert ask(backend, path).num_made == 14


def test_an_answer_that_fails_costs_only_itself(tmp_path):
    calls = iter(range(99))

    def answer(request):
        return BackendError("gone") if next(calls) % 4 == 0 else GOOD.format(1)

    report = ask(ScriptedTextBackend(answer), tmp_path / "raw.jsonl")
    assert report.failures == {"BackendError": 6} and report.num_made == 18
    refused = ScriptedTextBackend([RequestError("no such field")])
    with pytest.raises(RequestError, match="no such field"):
        ask(refused, tmp_path / "other.jsonl")


def test_a_file_without_answers_yet_is_gone_on_with(tmp_path):
    path = tmp_path / "raw.jsonl"
    report = ask(ScriptedTextBackend([BackendError("gone")]), path)
    assert report.num_made == 0 and report.num_left == 24
    assert ask(teacher(), path).num_made == 24 and len(path.read_text().splitlines()) == 25
    assert len(problems_of(TASK, path)) == 12


def test_a_file_of_other_settings_is_refused(tmp_path):
    ask(teacher(), tmp_path / "raw.jsonl")
    with pytest.raises(ConfigError, match="seed = 0, now it is 1"):
        ask(teacher(), tmp_path / "raw.jsonl", seed=1)


def test_of_a_teacher_that_errs_the_right_ones_are_kept(tmp_path):
    """40 % wrong: what is kept as right is right, each of them, and the wrong stay apart."""
    ask(teacher(0.4), tmp_path / "raw.jsonl", count=60)
    rows = read_raw(tmp_path / "raw.jsonl")
    problems = TASK.problems("train", 60)
    found = asyncio.run(sort_raw(TASK, rows, problems))
    gold = {p.id: p.gold for p in problems}
    assert not found.rejected and len(found.right) + len(found.wrong) == 120
    assert 30 < len(found.wrong) < 66
    assert all(t.solution == gold[t.problem_id] for t in found.right)
    assert all(t.solution != gold[t.problem_id] for t in found.wrong)
    some = asyncio.run(sort_raw(TASK, rows, problems[:30]))
    assert len(some.rejected) == 60 and {why for _, why in some.rejected} == {"unknown problem"}


def raw(text, finish="stop"):
    return {"problem_id": "p", "prompt": [], "text": text, "finish_reason": finish}


@pytest.mark.parametrize(
    ("text", "finish", "why"),
    [
        (GOOD, "length", "cut"),
        ("just 5", "stop", "0 times"),
        (GOOD + GOOD, "stop", "2 times"),
        ("Sure! " + GOOD, "stop", "outside"),
        (GOOD.replace("{}", " "), "stop", "empty"),
        (SWAPPED, "stop", "order"),
    ],
)
def test_what_is_no_demonstration_is_rejected_with_the_reason(text, finish, why):
    found = reformat(raw(text, finish))
    assert isinstance(found, Rejected) and why in found.why


def test_a_thinking_models_own_tags_are_taken():
    found = reformat(raw("<think>\nFirst a.\n\nWait, b.\n</think>\n\nIt is 5."))
    assert [step.role for step in found.steps] == ["PLAN", "DOUBT"] and found.solution == "It is 5."


def test_a_rewriting_must_keep_the_words():
    words = " ".join(f"w{i}" for i in range(40))
    good = render(Trace((), (Step("STEP", words),), "It is 5."))
    source = raw(f"{words}\n\nIt is 5.")
    copied = asyncio.run(rewrite(source, ScriptedTextBackend([good]), 400))
    assert reformat(source, rewritten=copied).solution == "It is 5."
    assert change_of("a b c d", "a b c d") == 0 and change_of("", "") == 0
    found = reformat(source, rewritten=good.replace("w1", "v"))  # w1, w10 to w19
    assert found == Rejected("rewritten")


def test_flow_breaks_begin_steps_and_paragraphs_go_on():
    thought = "Plan: x.\n\nGo on.\n\nMore.\n\nWait, no.\n\nThen y.\n\nCheck y.\n\nSo it is 3."
    assert [(s.role, s.text) for s in segment(thought)] == [
        ("PLAN", "Plan: x.\n\nGo on.\n\nMore."),
        ("DOUBT", "Wait, no."),
        ("STEP", "Then y."),
        ("CHECK", "Check y."),
        ("CONCLUDE", "So it is 3."),
    ]
    assert segment("  ") == () and len(segment(thought, "paragraphs")) == 7
    whole = parse(render(Trace((), segment(thought), "3")))
    assert whole.thought == thought


def with_question(text, answer="1", id="p"):
    return Trace(({"role": "user", "content": text},), (), answer, id)


def test_duplicates_and_too_many_of_one_problem_go():
    traces = [with_question("a b"), with_question("A  b"), with_question("a b", "2")]
    assert dedupe(traces) == [traces[0], traces[2]] and at_most(traces, 1) == traces[:1]


def test_what_an_evaluation_holds_goes_and_a_form_does_not_count():
    long = " ".join(f"w{i}" for i in range(20))
    form = "In this task please read the text with care and then answer it : "
    traces = [with_question(f"{form}{i} {'x' * i}") for i in range(10)]
    held = ["Equal   TEXT", f"{form}99 never seen", "before " + long]
    traces += [with_question("equal text"), with_question(long + " after"), with_question("free")]
    clean = decontaminate(traces, held)
    assert clean.overlapping == traces[10:12] and len(clean.kept) == 11


def test_measures_of_answers_by_hand():
    texts = [
        render(Trace((), (Step("DOUBT", "Wait, no."), Step("STEP", "So be it.")), "5")),
        "<|begin_of_thought|>\n\nPlan.\n\nCheck it.",
    ]
    found = measure(texts, [True, False])
    assert (found.n, found.accuracy, found.first_goes_back, found.unfinished) == (2, 0.5, 0.5, 0.5)
    assert found.reflections == 1.0 and found.coherence is None
    assert gain_kept(0.2, 0.6, 0.5) == pytest.approx(0.75)


def test_the_trainer_reads_what_is_written_and_knows_the_same_tag():
    assert data.SOLUTION == trace_module.SOLUTION
    trace = Trace(({"role": "system", "content": "S"}, {"role": "user", "content": "q"}), (), "5")
    messages, _ = data.messages_of(training_row(trace))
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    for tokenizer in (load_model("tiny").tokenizer, student().tokenizer):
        told = data.sample_of(messages, tokenizer, "solution")
        ids = [t for t, m in zip(told.response_ids, told.loss_mask) if m]
        before, _, answer = tokenizer.decode(ids).partition("<|begin_of_solution|>\n\n")
        assert answer.startswith("5") and before.strip() in ("", "<|end_of_thought|>")


def test_the_student_writes_a_digit_as_a_token_and_phrases_whole():
    tokenizer = student().tokenizer
    text = "Begin with 7, add 3 and take 5 in turn, six times, mod 10. What is the end?" + render(
        Trace((), (), "5")
    )
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("7 + 3 = 0, five left: take 5, add 3.\n\n")) == 11
