"""A corpus, its search engine and browser, documents in parts: what is found and told."""

import asyncio
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs import make_task, validate
from evolute.envs.madewords import SYLLABLES
from evolute.envs.memory.document import COLOURS, draw_document
from evolute.envs.search import Page, is_same_answer, plain_answer
from evolute.envs.search.corpus import FIRST, draw_corpus, draw_question
from evolute.envs.step import read_step
from evolute.envs.tools.browser import Browser
from evolute.envs.tools.contract import ToolContext
from evolute.envs.tools.memory import NextWithSummary
from evolute.envs.tools.registry import PlainAgent, make_tool_task
from evolute.envs.tools.retrieval import Bm25, words
from evolute.envs.tools.search import Search, SearchIndex
from evolute.types import ConfigError, ToolError

TEXT = st.lists(st.sampled_from(["cat", "dog", "sat", "mat", "ran"]), max_size=8).map(" ".join)


def ask(tool, agent=None, **arguments):
    context = ToolContext(agent or PlainAgent(), "t")
    try:
        return asyncio.run(tool.call(arguments, context)).text
    except ToolError as error:
        return f"ToolError: {error}"


@given(st.lists(TEXT, min_size=1, max_size=6), TEXT)
def test_bm25_is_its_formula(texts, query):
    lengths = [len(words(text)) for text in texts]
    mean = sum(lengths) / len(texts)
    expected = {}
    for k, text in enumerate(texts):
        score = 0.0
        for word in words(query):
            n = sum(word in words(other) for other in texts)
            number = words(text).count(word)
            if number:
                idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
                norm = 1.5 * (0.25 + 0.75 * lengths[k] / mean)
                score += idf * number * 2.5 / (number + norm)
        if score:
            expected[k] = score
    found = Bm25(texts).top(query, 10)
    assert dict(found) == pytest.approx(expected)
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


def test_the_browser_opens_finds_and_links():
    pages = (Page("River Foo", "water " * 700 + "fish", ("Town Bar",)), Page("Town Bar", "houses"))
    browser = Browser(pages)
    assert ask(browser, command="links").startswith("ToolError: no page is open")
    assert "Titles like it: River Foo" in ask(browser, command="open", page="Rivr Foo")
    first = ask(browser, command="open", page=" river foo ")
    assert "[part 1 of 2]" in first and first.endswith("Links: Town Bar")
    assert "part 2: ..." in ask(browser, command="find", text="FISH")
    assert "does not stand" in ask(browser, command="find", text="cow")
    assert "[700 in all]" in ask(browser, command="find", text="water")
    assert ask(browser, command="links") == "- Town Bar"
    assert "has 2 parts" in ask(browser, command="open", page="River Foo", part=3)
    assert "needs page" in ask(browser, command="open")
    assert ask(browser, command="open", page="Town Bar") == "Town Bar\nhouses"
    assert "links to no page" in ask(browser, command="links")
    assert "one of open, find, links" in ask(browser, command="shut")


def test_search_shows_beginnings_or_all():
    pages = [Page(f"Page {k}", f"word{k} " + "blah " * 60) for k in range(5)]
    index = SearchIndex(pages)
    short = ask(Search(index, num_results=2), query="word3 page")
    assert short.startswith("1. Page 3\nword3") and short.count("...") == 2
    assert "..." not in ask(Search(index, whole=True), query="word3")
    assert ask(Search(index), query="zebra").startswith("Nothing found")
    assert "query is empty" in ask(Search(index), query=" ")


@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from(["train", "heldout"]))
def test_a_question_is_answered_by_the_pages_of_its_path(seed, hops, split):
    source = random.Random(seed)
    corpus = draw_corpus(source, 40, split)
    question = draw_question(source, corpus, hops)
    by_title = {page.title: page for page in corpus.pages}
    assert len(set(question.path)) == hops
    assert question.path[0] in question.text
    for title, following in zip(question.path, [*question.path[1:], question.answer]):
        assert following in by_title[title].text
    for title in question.path[1:]:
        assert title not in question.text  # only the pages lead there
    assert all(link in by_title for page in corpus.pages for link in page.links)


def test_no_name_is_in_both_splits():
    forms = {"Works", "River", "Tales", "of", *FIRST}
    names = {
        split: {
            word
            for seed in range(10)
            for title in draw_corpus(random.Random(seed), 40, split).kinds
            for word in title.split()
            if word not in forms
        }
        for split in ("train", "heldout")
    }
    assert names["train"] and names["heldout"] and not names["train"] & names["heldout"]


@pytest.mark.parametrize(
    ("given", "gold", "same"),
    [
        ("The Foo Works.", "foo works", True),
        ("foo  works", "Foo Works", True),
        ("Foo", "Foo Works", False),
        ("1,234", "1234", True),
        ("", "the", False),
        (None, "x", False),
        ("x" * 2000, "x" * 2000, False),
    ],
)
def test_short_answers_match_exactly_but_for_their_dress(given, gold, same):
    assert is_same_answer(given, gold) == same
    assert plain_answer("A  Tale!") == "tale"


def test_a_talk_in_tags_searches_and_answers():
    task = make_task("search-talk?hops=1&docs=20&turns=3")
    validate(task, 4)
    problem = task.problems("train", 1)[0]
    env = task.make(problem)
    env.init(problem.messages)
    first = read_step(env.step("<search>who</search> made up"))
    assert first.postprocessed_action == "<search>who</search>" and not first.done
    second = read_step(env.step(f"<search>{problem.id.partition(': ')[2]}</search>"))
    gold = problem.gold.removeprefix("<answer>").removesuffix("</answer>")
    assert "<information>" in second.observations[0]["content"]
    assert "last turn" in second.observations[0]["content"]
    assert read_step(env.step(f"<answer>the {gold}.</answer>")).reward == 1.0
    assert env.get_metrics() == {"searches": 2.0}
    env = task.make(problem)
    env.init(problem.messages)
    assert [read_step(env.step("hm")).done for _ in range(3)] == [False, False, True]


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(4, 9), st.integers(1, 4))
def test_a_document_holds_exactly_one_chain_from_its_question(seed, parts, lines, hops):
    document = draw_document(random.Random(seed), parts, lines, hops, "train")
    assert len(document.parts) == parts and len(document.facts) == hops
    for part, fact in document.facts:
        assert fact in document.parts[part]
    text = " ".join(document.parts)
    links = dict(re.findall(r"(\w+) owns the (\w+) key", text))
    opens = dict(re.findall(r"The (\w+) key opens the (\w+) box", text))
    stands = dict(re.findall(r"The (\w+) box stands in the (\w+) room", text))
    belongs = dict(re.findall(r"The (\w+) room belongs to the (\w+) house", text))
    value = re.search(r"that (\w+) owns", document.question)[1]
    for table in (links, opens, stands, belongs)[:hops]:
        value = table[value]
    assert value == document.answer and words(text).count(value.lower()) == 1


def test_the_memory_tool_clears_the_talk():
    tool = NextWithSummary("What?", ["one", "two"])
    system = {"role": "system", "content": "tools"}
    agent = PlainAgent([system, tool.message(""), {"role": "assistant", "content": "x"}])
    context = ToolContext(agent, "t")
    result = asyncio.run(tool.call({"summary": " kept "}, context))
    assert result.replaced and result.text == "" and result.answer is None
    assert agent.messages[0] == system and len(agent.messages) == 2
    told = agent.messages[1]["content"]
    assert (
        "What?" in told and "Your memory:\nkept" in told and "part 2 of 2" in told and "two" in told
    )
    assert "one" not in told and "last part" in told
    asyncio.run(tool.call({"summary": "x" * 9000}, context))
    assert "The document is read" in agent.messages[1]["content"]
    assert len(agent.messages[1]["content"]) < 2300
    assert "no more parts" in ask(tool, agent, summary="y")
    assert "needs summary" in ask(tool, agent)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_short_names_have_two_syllables(split):
    short = {(one + other).capitalize() for one in SYLLABLES for other in SYLLABLES}
    for seed in range(8):
        document = draw_document(random.Random(seed), 2, 4, 1, split, "short")
        told = re.findall(r"[A-Z][a-z]+", " ".join(document.parts))
        assert set(told) - {"Nobody", "It", "The"} <= short
        assert {document.answer} <= short
        for title in draw_corpus(random.Random(seed), 10, split, "short").kinds:
            assert set(title.split()) - {*FIRST, "Works", "Tales", "of", "River"} <= short


@pytest.mark.parametrize(
    "name", ["memory-qa?parts=4&lines=12&names=short", "search-qa?docs=31&names=short",
             "search-qa?names=tiny", "memory-qa?names="]
)  # fmt: skip
def test_more_short_names_than_there_are_are_refused(name):
    with pytest.raises(ConfigError, match="names"):
        make_tool_task(name)


@pytest.mark.parametrize("seed", range(6))
def test_without_decoys_one_line_tells_of_a_key(seed):
    document = draw_document(
        random.Random(seed), 2, 4, 1, "train", "short", decoys=False, answers="colours"
    )
    told = re.findall(r"\w+ owns the (\w+) key", " ".join(document.parts))
    assert told == [document.answer] and document.answer in COLOURS


def test_colours_are_the_last_of_a_chain_and_of_its_decoys():
    document = draw_document(random.Random(3), 3, 12, 2, "train", answers="colours")
    text = " ".join(document.parts)
    assert document.answer in COLOURS
    assert set(re.findall(r"opens the (\w+) box", text)) <= set(COLOURS)
    assert not set(re.findall(r"owns the (\w+) key", text)) & set(COLOURS)
