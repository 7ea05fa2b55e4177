"""Programs as people write them, on a scripted model."""

import asyncio
import threading

import pytest

import evolute.lang as sgl
from evolute.lang.account import Account, Budget, Spent
from evolute.testing import ScriptedBackend, ScriptedTextBackend
from evolute.types import BackendError, BudgetSpent, ConfigError, OutOfCapacity, ProgramError


@sgl.function
def ask(s, question):
    s += "Q: " + question + "\nA:"
    s += sgl.gen("answer", max_tokens=16, stop="\n")
    s += "\nSure?" + sgl.gen("sure", max_tokens=4)
    return len(s["answer"])


def test_gens_are_appended_and_kept():
    backend = ScriptedTextBackend([" Paris.\nQ: more", " yes"])
    state = ask.run(question="Capital?", backend=backend)
    assert state["answer"] == " Paris." and state["sure"] == " yes"
    assert state.text() == "Q: Capital?\nA: Paris.\nSure? yes"
    assert state.ret_value == 7 and state.error() is None
    assert "answer" in state and "nothing" not in state
    with pytest.raises(KeyError, match="nothing"):
        state["nothing"]
    first, second = backend.requests
    assert first.prompt.text == "Q: Capital?\nA:" and first.sampling.stop == ("\n",)
    assert second.sampling.max_new_tokens == 4
    assert state.spent == Spent(2, 14 + 27, 0, 8 + 4) and state.get_meta_info("answer")[
        "finish_reason"
    ] == {"type": "stop", "matched": "\n"}


def test_any_backend_of_tokens_will_do():
    backend = ScriptedBackend([" Paris.\n", " yes"])
    state = ask.run("Capital?", backend=backend)
    assert state["answer"] == " Paris."
    # what was made is sent as the tokens that were made, without the stop's
    assert bytes(backend.requests[1].prompt).decode() == "Q: Capital?\nA: Paris.\nSure?"


def test_a_run_sets_what_a_gen_leaves_open():
    backend = ScriptedTextBackend(["x"])
    ask.run("?", backend=backend, temperature=0.0, max_new_tokens=99, top_k=-1, stop=["END"])
    assert [r.sampling.max_new_tokens for r in backend.requests] == [16, 4]
    assert [r.sampling.stop for r in backend.requests] == [("\n",), ("END",)]
    assert all(r.sampling.temperature == 0.0 and r.sampling.top_k == 0 for r in backend.requests)


def test_a_seeded_run_draws_each_gen_by_its_own_seed_again_and_again():
    seeds = []
    for _ in range(2):
        backend = ScriptedTextBackend(["x"])
        ask.run("?", backend=backend, seed=7)
        seeds.append([r.sampling.seed for r in backend.requests])
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 2


def test_a_failing_gen_is_named_where_it_is_read():
    @sgl.function
    def broken(s):
        s += "a" + sgl.gen("first")
        s += sgl.gen("second")
        s += sgl.gen("third")
        return s["first"]

    backend = ScriptedTextBackend(["fine", BackendError("the model is gone")])
    state = broken.run(backend=backend)
    assert state["first"] == "fine" and state.ret_value == "fine"
    for read in (lambda: state["second"], lambda: state["third"], state.text, state.sync):
        with pytest.raises(ProgramError, match=r"gen 'second' \(test_programs.py:\d+\)") as caught:
            read()
        assert isinstance(caught.value.__cause__, BackendError)
    assert "the model is gone" in str(state.error()) and len(backend.requests) == 2


def test_what_the_function_raises_is_raised_by_run():
    @sgl.function
    def wrong(s):
        s += sgl.gen("x")
        raise RuntimeError(s["x"] + "!")

    with pytest.raises(RuntimeError, match="oops!"):
        wrong.run(backend=ScriptedTextBackend(["oops"]))


def test_reading_what_nobody_sets_does_not_wait():
    @sgl.function
    def odd(s):
        s += sgl.gen("x")
        return s["y"]

    with pytest.raises(KeyError, match="y"):
        odd.run(backend=ScriptedTextBackend())


def test_none_and_numbers_are_not_appended():
    @sgl.function
    def odd(s, value):
        s += value

    for value in (None, 3):
        with pytest.raises(TypeError, match="cannot be appended"):
            odd.run(value, backend=ScriptedTextBackend())


def test_branches_run_at_once_and_are_gathered():
    @sgl.function
    def tips(s):
        s += "Two tips:"
        forks = s.fork(2)
        for i, f in enumerate(forks):
            f += f" {i + 1}."
            f += sgl.gen("tip", max_tokens=8)
        forks.join()
        s += " First:" + s["tip"][0] + " Second:" + s["tip"][1]
        s += sgl.gen("end")

    def answer(request):
        return {"1.": "eat", "2.": "sleep"}.get(request.prompt.text[-2:], "done")

    backend = ScriptedTextBackend(answer, delay_s=0.01)
    state = tips.run(backend=backend)
    assert state["tip"] == ["eat", "sleep"]
    assert state.text() == "Two tips: First:eat Second:sleepdone"
    assert [p.text for p in backend.prepared] == ["Two tips:"]
    assert state.spent.calls == 4  # three gens and the hint


def test_branches_take_a_list_or_a_function_and_join_as_text():
    @sgl.function
    def three(s):
        s += "0"
        forks = s.fork(3)
        forks += ["a", "b", "c"]
        forks += lambda i: str(i)
        forks += sgl.gen("x")
        forks[1] += "!"
        forks.join("concate_and_append")

    state = three.run(backend=ScriptedTextBackend(["-"]))
    assert state.text() == "0a0-b1-!c2-"
    with pytest.raises(KeyError):
        state["x"]


def test_a_branch_that_fails_or_skips_keeps_the_places():
    @sgl.function
    def odd(s):
        forks = s.fork(3)
        forks[0] += "a" + sgl.gen("x") + sgl.gen("y")
        forks[1] += "b" + sgl.gen("x")
        forks[2] += "c" + sgl.gen("z")
        forks.join()

    def answer(request):
        return BackendError("no") if request.prompt.text.startswith("b") else "fine"

    state = odd.run(backend=ScriptedTextBackend(answer))
    for name in ("x", "y", "z"):
        with pytest.raises(ProgramError, match=r"branch 1: gen 'x' .*: no"):
            state[name]

    state = odd.run(backend=ScriptedTextBackend(["fine"]))
    assert state["y"] == ["fine", None, None] and state["z"] == [None, None, "fine"]


def test_a_copy_asks_aside_and_a_scope_collects():
    @sgl.function
    def json(s):
        with s.copy() as c:
            c += "aside" + sgl.gen("side")
        with s.var_scope("json"):
            s += '{"a": ' + sgl.gen("a") + "}"
        s += " ok"

    state = json.run(backend=ScriptedTextBackend(["1", "2"]))
    assert state["json"] == '{"a": 2}' and state.text() == '{"a": 2} ok' and state["side"] == ["1"]


def test_several_samples_are_a_list_and_the_first_goes_on():
    @sgl.function
    def many(s):
        s += "x" + sgl.gen("v", n=3)

    state = many.run(backend=ScriptedTextBackend(["a", "b", "c"]))
    assert state["v"] == ["a", "b", "c"] and state.text() == "xa"
    assert [meta["completion_tokens"] for meta in state.get_meta_info("v")] == [2, 2, 2]


def test_a_batch_keeps_order_shares_its_prefix_and_contains_failures():
    few_shot = "An example that is longer than the sixty-four characters it takes. " * 2

    @sgl.function
    def one(s, word, end="."):
        s += few_shot + word + sgl.gen("x") + end
        return s["x"]

    def answer(request):
        word = request.prompt.text[len(few_shot) :]
        return BackendError("bad " + word) if word == "c" else word.upper()

    backend = ScriptedTextBackend(answer)
    states = one.run_batch([("d",), ("c", "!"), {"word": "a"}, ("b",)], backend=backend)
    assert [s["x"] for s in states if s.error() is None] == ["D", "A", "B"]
    assert "bad c" in str(states[1].error())
    with pytest.raises(ProgramError, match="bad c"):
        states[1].ret_value  # noqa: B018
    assert [p.text for p in backend.prepared] == [few_shot]
    sent = [r.prompt.text[len(few_shot) :] for r in backend.requests]
    assert sent == ["a", "b", "c", "d"]
    billed = sum((s.spent for s in states), Spent())
    assert billed.calls == 5


@pytest.mark.parametrize("limit", [1, 3, "auto"])
def test_num_threads_is_how_many_run_at_once(limit):
    running, most = 0, 0

    class Counting(ScriptedTextBackend):
        async def generate(self, request):
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            try:
                return await super().generate(request)
            finally:
                running -= 1

    @sgl.function
    def twice(s, i):
        s += f"{i}" + sgl.gen("x") + sgl.gen("y")

    before = threading.active_count()
    states = twice.run_batch(
        [(i,) for i in range(10)], backend=Counting(delay_s=0.002), num_threads=limit
    )
    assert len(states) == 10 and all(s["y"] == "ok" for s in states)
    assert most == (10 if limit == "auto" else limit)
    assert threading.active_count() <= before + 1


def test_a_generator_gives_states_in_order():
    @sgl.function
    def echo(s, i):
        s += str(i) + sgl.gen("x")

    backend = ScriptedTextBackend(lambda r: r.prompt.text)
    got = echo.run_batch([(i,) for i in range(450)], backend=backend, generator_style=True)
    assert next(got)["x"] == "0" and len(backend.requests) == 200
    assert [s["x"] for s in got] == [str(i) for i in range(1, 450)]


def test_bad_arguments_are_refused_before_anything_is_sent():
    backend = ScriptedTextBackend()
    with pytest.raises(ConfigError, match="no parameter 'queston'"):
        ask.run(queston="?", backend=backend)
    with pytest.raises(ConfigError, match="missing a required argument: 'question'"):
        ask.run_batch([{"question": "a"}, {}], backend=backend)
    with pytest.raises(ConfigError, match="too many"):
        ask.run_batch([("a", "b")], backend=backend)
    with pytest.raises(ConfigError, match="must be called s"):
        sgl.function(lambda state: None)
    assert backend.requests == []
    assert ask.run_batch([], backend=backend) == []


def test_without_a_backend_the_default_one_or_a_clear_error():
    with pytest.raises(ConfigError, match="set_default_backend"):
        ask.run("?")
    sgl.set_default_backend(ScriptedBackend(["x"]))
    try:
        assert ask.run("?")["sure"] == "x"
    finally:
        sgl.set_default_backend(None)


def test_bind_keeps_everything():
    bound = ask.bind(question="Capital?")
    assert bound.run(backend=ScriptedTextBackend(["x"]))["answer"] == "x"
    with pytest.raises(ConfigError, match="no parameter 'nothing'"):
        ask.bind(nothing=1)


def test_an_async_program_awaits():
    @sgl.function
    async def both(s):
        s += "x" + sgl.gen("a")
        first = await s.aget("a")
        async with s.afork(2) as forks:
            forks += lambda i: str(i) + sgl.gen("b")
        s += first + sgl.gen("c")
        await s.async_sync()
        return s["b"]

    state = asyncio.run(both.arun(backend=ScriptedTextBackend(["1", "2", "3", "4"], delay_s=0.001)))
    assert state.ret_value == ["2", "3"] and state.text() == "x114"


def test_an_async_program_that_would_block_is_told_what_to_await():
    @sgl.function
    async def blocks(s):
        s += sgl.gen("a")
        return s["a"]

    with pytest.raises(ConfigError, match=r"await s\.aget"):
        blocks.run(backend=ScriptedTextBackend(delay_s=0.01))


def test_a_program_runs_within_another():
    @sgl.function
    def inner(s, x):
        s += x + sgl.gen("y")

    @sgl.function
    def outer(s):
        s += "o" + inner.run(x="i")["y"]
        inner(s, "j")
        return s["y"]

    sgl.set_default_backend(ScriptedTextBackend(["1", "2"]))
    try:
        state = outer.run()
    finally:
        sgl.set_default_backend(None)
    assert state.text() == "o1j2" and state.ret_value == "2"


def test_a_budget_ends_a_program_before_it_sends_too_much():
    account, backend = Account(Budget(calls=1)), ScriptedTextBackend(["x"])
    state = ask.run("?", backend=backend, account=account)
    assert state["answer"] == "x" and len(backend.requests) == 1
    with pytest.raises(ProgramError, match=r"gen 'sure' .*no call is left") as caught:
        state["sure"]
    assert isinstance(caught.value.__cause__, BudgetSpent)
    assert account.spent == state.spent


def test_cancelling_ends_what_is_in_flight():
    backend = ScriptedBackend(["x" * 50], delay_s=0.01)

    async def run():
        task = asyncio.create_task(ask.arun("?", backend=backend))
        while not backend.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert len(backend.requests) == 1 and backend.cancelled == [backend.requests[0].id]


def test_a_full_queue_is_waited_for():
    refusals = iter([OutOfCapacity("full", 0.001)] * 3)

    class Full(ScriptedBackend):
        async def agenerate(self, request):
            for error in refusals:
                raise error
            return await super().agenerate(request)

    state = ask.run("?", backend=Full(["x"]))
    assert state["sure"] == "x"


def test_nothing_is_appended_to_a_program_that_has_ended():
    state = ask.run("?", backend=ScriptedTextBackend(["x"]))
    with pytest.raises(ProgramError, match="has ended"):
        state += "more"


def test_a_scope_read_within_itself_or_left_open_is_told():
    @sgl.function
    def within(s):
        with s.var_scope("all"):
            s += "a" + sgl.gen("x")
            return s["all"]

    with pytest.raises(ProgramError, match="'all' is read within its own scope"):
        within.run(backend=ScriptedTextBackend())

    @sgl.function
    def leaves(s):
        with s.var_scope("all"):
            s += "a"
            return 1

    assert leaves.run(backend=ScriptedTextBackend())["all"] == "a"


def test_a_name_that_is_used_again_holds_the_later_value():
    @sgl.function
    def again(s):
        s += "a" + sgl.gen("x") + sgl.gen("x")
        first = s["x"]
        s += sgl.gen("x")
        s["x"] = "mine"
        s.sync()
        return first, s["x"]

    state = again.run(backend=ScriptedTextBackend(["1", "2", "3"], delay_s=0.001))
    assert state.ret_value == ("2", "mine") and state.text() == "a123"


def test_a_program_that_fails_before_its_gen_has_begun_ends():
    @sgl.function
    def hasty(s):
        s += "a" + sgl.gen("x")
        raise RuntimeError("at once")

    backend = ScriptedTextBackend()
    with pytest.raises(RuntimeError, match="at once"):
        hasty.run(backend=backend)
    (state,) = hasty.run_batch([{}], backend=backend)
    assert str(state.error()) == "at once" and backend.requests == []
    with pytest.raises(ProgramError, match="hasty: it was cancelled"):
        state["x"]


def test_what_comes_after_a_failed_gen_is_unset_for_its_reason():
    @sgl.function
    def two(s):
        s += sgl.gen("first", max_tokens=4)
        s["second"]

    with pytest.raises(ProgramError, match="gen 'first'") as caught:
        two.run(backend=ScriptedTextBackend(["x"]), account=Account(Budget(calls=0)))
    assert isinstance(caught.value.__cause__, BudgetSpent)
