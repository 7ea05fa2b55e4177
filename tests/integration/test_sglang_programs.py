"""Programs as SGLang's users write them: only the import is another."""

import json
import re

import pytest

import evolute.lang as sgl
from evolute.engine import Engine
from evolute.lang import (
    assistant,
    assistant_begin,
    assistant_end,
    function,
    gen,
    select,
    set_default_backend,
    system,
    user,
    user_begin,
    user_end,
)
from evolute.testing import ScriptedTextBackend


@pytest.fixture(scope="module")
def engine():
    with Engine("tiny", page_size=4) as engine:
        set_default_backend(engine)
        yield engine
        set_default_backend(None)


@pytest.fixture
def scripted():
    """scripted(answers): the default backend for one test."""
    before = sgl.global_config.default_backend

    def use(script):
        backend = ScriptedTextBackend(script)
        set_default_backend(backend)
        return backend

    yield use
    set_default_backend(before)


def test_few_shot_answers(scripted):
    @sgl.function
    def qa(s, question, num_shots=2):
        for q, a in [("Which is larger, 3 or 5?", "5"), ("Which is larger, 9 or 2?", "9")][
            :num_shots
        ]:
            s += f"Question: {q}\nAnswer: {a}\n\n"
        s += "Question: " + question + "\n"
        s += "Answer:" + sgl.gen("answer", stop="\n", temperature=0)

    scripted(lambda r: f" {max(re.findall(r'[0-9]+', r.prompt.text.splitlines()[-2]), key=int)}\n!")
    states = qa.run_batch(
        [{"question": f"Which is larger, {i} or 7?"} for i in range(10)],
        temperature=0,
        num_threads="auto",
        progress_bar=False,
    )
    assert [s["answer"] for s in states] == [f" {max(i, 7)}" for i in range(10)]


def test_a_tool_is_chosen_and_then_used(scripted):
    @function
    def tool_use(s, question):
        s += "To answer: " + question + " "
        s += "I will use a " + gen("tool", choices=["calculator", "search engine"]) + ". "
        if s["tool"] == "calculator":
            s += "The term is" + gen("expression")
        elif s["tool"] == "search engine":
            s += "The words are" + gen("word")

    scripted(["x"])
    state = tool_use.run("What is 2 + 2?")
    assert state["tool"] in ("calculator", "search engine")
    assert ("expression" in state) != ("word" in state)


def test_react_goes_on_until_it_finishes(scripted):
    @sgl.function
    def react(s, question, facts, max_steps=5):
        s += "Question: " + question + "\n"
        for i in range(1, max_steps):
            s += f"Thought {i}:" + sgl.gen(f"thought_{i}", stop=["Thought", "Action"])
            s += f"\nAction {i}:" + sgl.gen(f"action_{i}", stop="\n")
            found = re.search(r"(\w+)\[(.*)\]", s[f"action_{i}"])
            if found is None or found[1] == "Finish":
                return found and found[2]
            s += f"\nObservation {i}: {facts[found[2]]}\n"

    backend = scripted([" look it up", " Search[Ottawa]\n", " now I know", " Finish[Canada]\n"])
    state = react.run(question="Where is Ottawa?", facts={"Ottawa": "a city in Canada"})
    assert state.ret_value == "Canada"
    assert "Observation 1: a city in Canada\nThought 2:" in backend.requests[2].prompt.text


def test_tips_are_expanded_in_parallel(scripted):
    @sgl.function
    def expand(s, topic, tip):
        s += f"Expand this tip on {topic}: {tip}\n" + sgl.gen("long", max_tokens=64)

    @sgl.function
    def suggest(s, topic):
        s += "Two tips on " + topic + ". 1. Balance. 2. Rest.\n"
        forks = s.fork(2)
        for i in range(2):
            forks[i] += f"Now expand tip {i + 1}:\n"
            forks[i] += sgl.gen("detailed", max_tokens=64, stop="\n\n")
        s += "Tip 1:" + forks[0]["detailed"] + "\nTip 2:" + forks[1]["detailed"] + "\n"
        s += "In short" + sgl.gen("summary")

    scripted(
        lambda r: (
            "eat" if "tip 1:" in r.prompt.text else "sleep" if "tip 2:" in r.prompt.text else "."
        )
    )
    state = suggest.run(topic="health")
    assert "Tip 1:eat\nTip 2:sleep\nIn short." in state.text()


def test_a_judge_branches_solves_and_merges(scripted):
    sides = ["Clarity", "Evidence", "Style"]

    @sgl.function
    def judge(s, essay):
        s += system("You grade essays.")
        s += user("Essay: " + essay)
        forks = s.fork(len(sides))
        for f, side in zip(forks, sides):
            f += user(f"{side}: say what you think, then 'Score: N'.")
            f += assistant(gen("judgment"))
        judgments = [f["judgment"] for f in forks]
        s += user("Put these together: " + " | ".join(judgments))
        s += assistant(gen("verdict") + " Grade: " + gen("grade", choices=["A", "B", "C"]))

    scripted(lambda r: f"Score: {len(r.prompt.messages)}")
    state = judge.run(essay="Short.")
    assert [m["role"] for m in state.messages()] == ["system", "user", "user", "assistant"]
    assert state.messages()[2]["content"].count("Score: 4") == 3
    assert state["grade"] in "ABC"


def test_turns_are_written_by_their_edges(scripted):
    @function
    def multi_turn(s, q1, q2):
        s += system("Be kind.")
        s += user_begin() + q1 + user_end()
        s += assistant_begin() + gen("a1", max_tokens=32) + assistant_end()
        with s.user():
            s += q2
        with s.assistant():
            s += gen("a2", max_tokens=32)

    scripted(["one", "two"])
    state = multi_turn.run("q1", "q2")
    assert state.messages()[1:] == [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "two"},
    ]


def test_json_by_a_regex_and_by_a_schema(engine):
    card = r'\{"name": "[a-z]{1,8}", "age": [0-9]{1,2}, "tame": (true|false)\}'
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "maximum": 9}},
        "required": ["kind", "legs"],
        "x-guidance": {"whitespace_flexible": False},
    }

    @sgl.function
    def cards(s):
        s += "An animal: " + sgl.gen("card", max_tokens=80, regex=card, temperature=0.7) + "\n"
        s += "Another: " + sgl.gen("other", max_tokens=80, json_schema=json.dumps(schema))

    for state in cards.run_batch([{}] * 4, seed=3):
        assert re.fullmatch(card, state["card"])
        assert json.loads(state["other"])["kind"] in ("cat", "dog")


def test_types_give_the_form(engine):
    @sgl.function
    def numbers(s):
        s += "n = " + sgl.gen_int("n", max_tokens=6) + " s = " + sgl.gen_string("s", max_tokens=40)
        s += " f = " + sgl.gen("f", dtype=float, max_tokens=8) + " b = " + sgl.gen("b", dtype=bool)

    state = numbers.run(seed=1)
    assert re.match(r"[-+]?[0-9]*", state["n"]) and state["b"] in ("True", "False")
    assert re.match(r"[-+]?[0-9]*\.?[0-9]*", state["f"]) and state["s"].startswith('"')


def test_json_is_assembled_in_a_scope(engine):
    @sgl.function
    def note(s):
        with s.var_scope("json"):
            s += '{"mood": "' + select("mood", choices=["good", "bad"]) + '", "why": "'
            s += gen("why", stop='"', max_tokens=8, regex="[a-z ]*") + '"}'

    state = note.run(temperature=0.5)
    assert json.loads(state["json"])["mood"] == state["mood"]


def test_a_chat_streams(engine):
    @sgl.function
    def chat(s, question):
        s += (
            sgl.system("Be brief.")
            + sgl.user(question)
            + sgl.assistant(sgl.gen("a", max_tokens=12))
        )

    state = chat.run(question="Hi", stream=True, temperature=0)
    text = "".join(state.text_iter(var_name="a"))
    assert text == state["a"] == chat.run(question="Hi", temperature=0)["a"]


def test_options_of_logprobs_are_answered(engine):
    @sgl.function
    def told(s):
        s += "abcdef" + sgl.gen(
            "a",
            max_tokens=4,
            return_logprob=True,
            top_logprobs_num=2,
            logprob_start_len=0,
            return_text_in_logprobs=True,
            ignore_eos=True,
        )

    meta = told.run(temperature=0).get_meta_info("a")
    assert len(meta["output_token_logprobs"]) == meta["completion_tokens"] == 4
    assert all(isinstance(text, str) for _, _, text in meta["output_token_logprobs"])
    assert [len(row) for row in meta["output_top_logprobs"]] == [2] * 4
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"] == 6
    assert meta["finish_reason"] == {"type": "length", "length": 4}


def test_the_constant_beginning_is_found_and_computed_beforehand(engine):
    shots = "One line of an example. " * 8

    @sgl.function
    def long(s, word):
        s += shots
        s += "Now: " + word + "\n" + sgl.gen("x", max_tokens=2)

    traced = long.trace()
    assert traced.prefix == shots + "Now: " and traced.is_whole
    assert long.trace(word="w").prefix == shots + "Now: w\n"
    sgl.flush_cache()
    long.cache()
    state = long.run("w")
    assert state.get_meta_info("x")["cached_tokens"] >= len(shots) // 4 * 4 - 4
    assert sgl.get_server_info()["model_path"] == "tiny"


@pytest.mark.parametrize("make", [sgl.image, sgl.video])
def test_what_needs_eyes_is_refused_clearly(make):
    with pytest.raises(Exception, match="no vision"):
        make("picture.png")


@pytest.mark.parametrize("name", ["Anthropic", "LiteLLM", "VertexAI", "Crusoe"])
def test_other_services_are_named_with_their_way(name):
    with pytest.raises(Exception, match=r"OpenAI\(model, base_url"):
        getattr(sgl, name)("m")


def test_bad_expressions_are_refused_where_they_are_written():
    with pytest.raises(re.error):
        sgl.gen("x", regex="(")
    with pytest.raises(TypeError, match="gen_int has no 'regex'"):
        sgl.gen_int("x", regex="a")
    with pytest.raises(TypeError, match="append a text"):
        "a" + sgl.gen("x") + None
