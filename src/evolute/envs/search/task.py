"""Answer questions from a corpus with a search engine and a browser.

    search_task("search-qa?hops=2&docs=60&browser=yes&results=3&names=long")     a ToolTask

A question needs `hops` facts, each on another page of `docs`. Without the browser the results show
whole pages. The answer counts by exact match (`answers.py`). Made-up words of names are `long`, or
`short`: two syllables, for models that read syllables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from evolute.envs.base import split_of
from evolute.envs.madewords import MAX_SHORT, NAMES
from evolute.envs.maths.word_problems import span
from evolute.envs.puzzles.task import Options, between, choice, read_options
from evolute.envs.search.answers import is_same_answer
from evolute.envs.search.corpus import Corpus, Page, Question, draw_corpus, draw_question
from evolute.envs.tools.browser import Browser
from evolute.envs.tools.contract import Grade, Tool
from evolute.envs.tools.finish import Finish
from evolute.envs.tools.search import Search, SearchIndex
from evolute.envs.tools.worlds import Call, Lifetime
from evolute.types import ConfigError, Message, Problem

FAMILY = "search-qa"
QUESTIONS = 50  # drawn from one corpus before another is made
DEFAULTS: Options = {"hops": "2", "docs": 60, "browser": "yes", "results": 3, "names": "long"}


@dataclass(frozen=True, slots=True)
class Shape:
    hops: tuple[int, int]
    docs: int
    results: int
    names: str = "long"


@dataclass(frozen=True, slots=True)
class Case:
    corpus: Corpus
    question: Question


Instruct = Callable[[Case], str]


@dataclass(frozen=True, slots=True)
class SearchTask:
    """A problem is its seed, and has a corpus of its own."""

    name: str
    shape: Shape
    has_browser: bool

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """No name of a corpus of one split is in the other's."""
        return draw_cases(self.shape, split, count, seed, self._instruction)

    def world(self, problem: Problem) -> SearchWorld:
        case = case_of(self.name, problem, self.shape)
        return SearchWorld(problem, case, self.shape, self.has_browser)

    def gold_calls(self, problem: Problem) -> Sequence[Call]:
        calls: list[Call] = []
        for title in case_of(self.name, problem, self.shape).question.path:
            calls.append(("search", {"query": title}))
            if self.has_browser:
                calls.append(("browser", {"command": "open", "page": title}))
        return [*calls, ("finish", {"answer": problem.gold})]

    def _instruction(self, case: Case) -> str:
        look = "Search for pages, open them and follow links" if self.has_browser else "Search"
        return (
            f"{case.question.text}\n{look}: what is needed lies on {self._pages(case)}. Hand in "
            "the answer with `finish`: the name, number or word alone."
        )

    def _pages(self, case: Case) -> str:
        number = len(case.question.path)
        return "one page" if number == 1 else f"{number} pages, one leading to the next"


class SearchWorld(Lifetime):
    """Nothing to acquire: the corpus is in memory."""

    def __init__(self, problem: Problem, case: Case, shape: Shape, has_browser: bool) -> None:
        super().__init__()
        self._problem, self._case, self._shape = problem, case, shape
        self._has_browser = has_browser

    def instruction(self) -> Sequence[Message]:
        return self._problem.messages

    def tools(self) -> Sequence[Tool]:
        index = index_of(self._case.corpus.pages)
        search = Search(index, num_results=self._shape.results, whole=not self._has_browser)
        browsers = (Browser(index.pages),) if self._has_browser else ()
        return (search, *browsers, Finish())

    async def grade(self, answer: str | None) -> Grade:
        is_right = is_same_answer(answer, self._case.question.answer)
        return Grade(float(is_right), is_right, {"hops": float(len(self._case.question.path))})


def search_task(name: str) -> SearchTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, DEFAULTS)
    has_browser = choice(FAMILY, options, "browser", ("yes", "no")) == "yes"
    return SearchTask(name, shape_of(FAMILY, options), has_browser)


def shape_of(family: str, options: Options) -> Shape:
    docs, names = (
        between(family, options, "docs", 10, 1000),
        choice(family, options, "names", NAMES),
    )
    if names == "short" and docs > MAX_SHORT:
        raise ConfigError(
            f"task {family!r} with {docs} docs needs more than the {MAX_SHORT} short names that "
            "there are. Take fewer docs, or names=long."
        )
    results = between(family, options, "results", 1, 10)
    return Shape(span(family, options, "hops", 1, 5), docs, results, names)


def draw_cases(
    shape: Shape, split: str, count: int, seed: int, instruct: Instruct
) -> list[Problem]:
    """Problems of cases, the same for the same seed however they are played."""
    source = random.Random(f"search/{shape.hops}/{shape.docs}/{split}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        key = f"{split}/{source.getrandbits(48):012x}"
        case = draw_case(key, shape)
        text = f"{key}: {case.question.text}"
        message: Message = {"role": "user", "content": instruct(case)}
        found[text] = Problem(text, (message,), case.question.answer, {"search": key})
    return list(found.values())


def case_of(name: str, problem: Problem, shape: Shape) -> Case:
    """Raises ConfigError for a problem of another family or of other options."""
    key = problem.extras.get("search")
    if isinstance(key, str):
        case = draw_case(key, shape)
        if problem.id == f"{key}: {case.question.text}":
            return case
    raise ConfigError(f"problem {problem.id[:80]!r} is none of {name!r}.")


@lru_cache(maxsize=64)
def draw_case(key: str, shape: Shape) -> Case:
    """Members of a group share a problem, so the last ones are kept."""
    source, split = random.Random(key), key.partition("/")[0]
    while True:
        corpus = draw_corpus(source, shape.docs, split, shape.names)
        for _ in range(QUESTIONS):
            question = draw_question(source, corpus, source.randint(*shape.hops))
            if split_of(question.text) == split:
                return Case(corpus, question)


@lru_cache(maxsize=64)
def index_of(pages: tuple[Page, ...]) -> SearchIndex:
    return SearchIndex(pages)
