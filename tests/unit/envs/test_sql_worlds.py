"""Queries that nobody has read, rows compared, questions to generated databases."""

import asyncio
import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs import make_task, validate
from evolute.envs.sql import Database, QueryRefused, is_ordered, same_rows
from evolute.envs.sql.questions import LEVELS
from evolute.envs.step import read_step
from evolute.envs.tools import make_tool_task
from evolute.envs.tools.contract import ToolContext
from evolute.envs.tools.registry import PlainAgent
from evolute.envs.tools.sql import SqlTool
from evolute.types import ToolError

SCRIPT = "CREATE TABLE t (x INTEGER, y TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (2, 'b');"


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("INSERT INTO t VALUES (3, 'c')", "only reading queries"),
        ("DELETE FROM t", "only reading"),
        ("CREATE TABLE z (x)", "only reading"),
        ("ATTACH 'file.db' AS other", "only reading"),
        ("VACUUM INTO 'file.db'", "denied"),
        ("PRAGMA journal_mode = WAL", "only reading"),
        ("PRAGMA hard_heap_limit = 0", "only reading"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT printf('%.*c', 99999999, 'x')", "printf"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT * FROM", "incomplete"),
        ("SELECT z FROM t", "no such column"),
        ("SELECT hex(zeroblob(1000000))", "too big"),
        ("SELECT '" + "x" * 30_000 + "'", "too big|too large"),
        ("SELECT '\ud800'", "encode"),
        ("SELECT '\0'", "null|unrecognized"),
    ],
)
def test_what_may_not_be_asked_is_refused_with_the_reason(query, told):
    database = Database(SCRIPT)
    with pytest.raises(QueryRefused, match=told):
        database.query(query)
    assert database.query("SELECT count(*) FROM t").rows == ((3,),)
    database.close()


def test_an_endless_query_ends():
    database = Database(SCRIPT)
    endless = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    )
    with pytest.raises(QueryRefused, match=r"not done after 0\.1 s"):
        database.query(endless, seconds=0.1)
    assert database.query("SELECT 1").rows == ((1,),)
    rows = database.query(endless.replace("count(*)", "x"), seconds=5, max_rows=3)
    assert rows.rows == ((1,), (2,), (3,)) and rows.is_cut
    database.close()


def test_writing_is_possible_where_it_is_allowed():
    database = Database(SCRIPT, read_only=False)
    database.query("CREATE TABLE z (q)")
    database.query("INSERT INTO z VALUES (7)")
    assert database.query("SELECT * FROM z").rows == ((7,),)
    for query in ("ATTACH 'f' AS o", "PRAGMA writable_schema = 1", "VACUUM INTO 'f'"):
        with pytest.raises(QueryRefused):
            database.query(query)
    database.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab")), max_size=6), st.randoms())
def test_rows_are_a_multiset_unless_they_are_ordered(rows, source):
    shuffled = list(rows)
    source.shuffle(shuffled)
    assert same_rows(rows, shuffled, ordered=False)
    assert same_rows(rows, shuffled, ordered=True) == (rows == shuffled)
    assert not same_rows([*rows, (9, "z")], rows, ordered=False)
    if rows:
        assert not same_rows([*rows, rows[0]], rows, ordered=False)  # duplicates count


def test_numbers_are_equal_as_numbers_and_text_as_text():
    assert same_rows([(1, 0.1 + 0.2)], [(1.0, 0.3)], ordered=True)
    assert not same_rows([(1,)], [("1",)], ordered=True)
    assert not same_rows([(None,)], [(0,)], ordered=True)
    assert not same_rows([(10**12,)], [(10**12 + 1,)], ordered=True)
    assert not same_rows([(1, 2)], [(2, 1)], ordered=False)
    assert same_rows([(-0.0,)], [(0,)], ordered=True)


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT x FROM t ORDER BY x", True),
        ("select x from t order   by\n x limit 3", True),
        ("SELECT x FROM (SELECT x FROM t ORDER BY x)", False),
        ("SELECT ' order by ' FROM t -- order by\n", False),
        ('SELECT "order by" FROM t /* order by */', False),
        ("SELECT row_number() OVER (ORDER BY x) FROM t", False),
        ("SELECT x FROM t WHERE y IN (SELECT (1) ORDER BY 1) ORDER BY 1", True),
    ],
)
def test_whether_a_query_orders(query, ordered):
    assert is_ordered(query) == ordered


def test_the_tool_shows_rows_and_what_is_left():
    database = Database(SCRIPT)
    tool, context = SqlTool(database, num_queries=3, max_rows=2), ToolContext(PlainAgent(), "t")

    def ask(query):
        try:
            return asyncio.run(tool.call({"query": query}, context)).text
        except ToolError as error:
            return str(error)

    assert (
        ask("SELECT * FROM t")
        == "x | y\n1 | a\n2 | b\n[the first 2 rows; there are more]\n[2 queries are left]"
    )
    assert ask("SELEC").endswith("[1 query is left]")
    assert ask("SELECT NULL") == "NULL\nNULL\n[1 rows]\n[0 queries are left; finish next]"
    assert ask("SELECT 1").startswith("no queries are left")
    database.close()


@pytest.mark.parametrize("level", LEVELS)
def test_a_constant_does_not_pass_for_an_answer(level):
    task = make_tool_task(f"sql?level={level}")

    async def constants():
        passed = 0
        for problem in task.problems("train", 12):
            world = task.world(problem)
            await world.start()
            rows = world._databases[0].query(problem.gold).rows
            literal = " UNION ALL ".join(
                "SELECT " + ", ".join("NULL" if v is None else repr(v) for v in row) for row in rows
            )
            passed += (await world.grade(literal)).is_right
            assert (await world.grade(problem.gold + " ")).is_right
            assert (await world.grade(f"```sql\n{problem.gold}\n```")).is_right
            assert not (await world.grade(problem.gold + " LIMIT 0")).is_right
            await world.close()
        return passed

    assert asyncio.run(constants()) <= 2


def test_a_talk_in_tags_has_skyrls_rewards():
    task = make_task("text-to-sql?turns=3&think=yes")
    validate(task, 3)
    problem = task.problems("train", 1)[0]
    query = problem.gold.split("<solution>")[1].removesuffix("</solution>")

    def play(*actions):
        env = task.make(problem)
        env.init(problem.messages)
        steps = [read_step(env.step(action)) for action in actions]
        env.close()
        return steps

    think = "<think>so</think>"
    first, last = play(
        f"{think}<sql>{query}</sql> and more", f"{think}<solution>{query}</solution>"
    )
    assert not first.done and "rows]" in first.observations[0]["content"]
    assert first.postprocessed_action == f"{think}<sql>{query}</sql>"
    assert (last.done, last.reward, last.metadata["accuracy"]) == (True, 1.0, 1.0)
    assert play(f"{think}<solution>SELECT 'x'</solution>")[-1].reward == 0.0
    assert play(f"<solution>{query}</solution>")[-1].reward == -1.0
    assert play(f"{think}<solution>a</solution><solution>b</solution>")[-1].reward == -1.0
    assert play(f"<sql>{query}</sql>", f"{think}<solution>{query}</solution>")[-1].reward == -1.0
    assert [s.reward for s in play(think, f"{think}<sql>SELEC</sql>", think)] == [0.0, 0.0, -1.0]


def test_the_gold_queries_run_in_sqlite_as_it_is():
    for problem in make_tool_task("sql?level=1-3").problems("heldout", 20):
        assert sqlite3.complete_statement(problem.gold + ";")


def test_with_drawn_spelling_only_the_stored_word_is_found():
    from evolute.envs.sql.domains import SPELLINGS

    task = make_tool_task("sql?level=0&spelling=drawn&rows=6")
    problems = task.problems("train", 24)
    stored = [re.search("'([^']+)'", problem.gold)[1] for problem in problems]
    words = [re.search(r"(\w+)\?", problem.id)[1] for problem in problems]
    ways = [[spell(word) for spell in SPELLINGS].index(as_is) for word, as_is in zip(words, stored)]
    assert set(ways) == {0, 1, 2, 3}

    async def grades(problem, word, way):
        world = task.world(problem)
        await world.start()
        queries = [problem.gold.replace(f"'{SPELLINGS[way](word)}'", f"'{spell(word)}'")
                   for spell in SPELLINGS]  # fmt: skip
        found = [(await world.grade(query)).is_right for query in queries]
        await world.close()
        return found

    for problem, word, way in zip(problems, words, ways):
        assert asyncio.run(grades(problem, word, way)) == [k == way for k in range(4)]
        assert "#north" in problem.messages[0]["content"]


def test_the_spelling_changes_no_question():
    def asked(name):
        return {p.id for p in make_tool_task(name).problems("heldout", 40)}

    assert len(asked("sql?level=1") & asked("sql?level=1&spelling=drawn")) > 30


def test_domains_limit_what_databases_are_about():
    from evolute.envs.sql.domains import DOMAINS

    first = DOMAINS[sorted(DOMAINS)[0]]
    for problem in make_tool_task("sql?level=0&domains=1").problems("train", 20):
        assert re.search(rf"FROM ({first.parent.name}|{first.child.name}) ", problem.gold)
    whole = make_tool_task("sql?level=1").problems("train", 20)
    assert whole == make_tool_task("sql?level=1&domains=10").problems("train", 20)
