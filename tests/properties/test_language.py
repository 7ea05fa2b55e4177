"""Random programs against a plain reading of what they say, failures included."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

import evolute.lang as sgl
from evolute.lang.account import Account, Budget, Spent
from evolute.testing import ScriptedTextBackend
from evolute.types import BackendError, BudgetSpent, ProgramError

NAMES = st.sampled_from("abc")
WORDS = st.text("xyz \n", min_size=1, max_size=4)
STEP = st.one_of(
    st.tuples(st.just("text"), WORDS),
    st.tuples(st.just("gen"), NAMES),
    st.tuples(st.just("read"), NAMES),
    st.tuples(st.just("set"), NAMES, WORDS),
    st.tuples(st.just("scope"), NAMES, WORDS),
)
STEPS = st.recursive(
    st.lists(STEP, max_size=5),
    lambda inner: st.lists(
        st.one_of(STEP, st.tuples(st.just("fork"), st.lists(inner, min_size=1, max_size=3))),
        max_size=5,
    ),
    max_leaves=12,
)


def said(prompt):
    """What the model says to a prompt, a pure function of it; one in eight fails."""
    digest = hashlib.md5(prompt.encode()).hexdigest()
    return BackendError(f"no {digest[:4]}") if digest[0] in "07" else digest[:3]


class Failed(Exception):
    pass


class Told:
    """The plain reading: one thing after another, nothing at once."""

    def __init__(self, text="", values=None):
        self.text, self.values, self.error = text, dict(values or {}), False

    def run(self, steps):
        """Raises Failed or KeyError where a read does, else goes on past an error."""
        for kind, *rest in steps:
            if kind == "read":
                self.read(rest[0])
            elif kind == "set":
                self.values[rest[0]] = rest[1]
            elif kind == "fork":
                self.fork(rest[0])
            elif self.error:
                if kind != "text":
                    self.values[rest[0]] = Failed
            elif kind == "text":
                self.text += rest[0]
            elif kind == "scope":
                self.text += rest[1]
                self.values[rest[0]] = rest[1]
            else:
                answer = said(self.text)
                self.error = isinstance(answer, BackendError)
                self.values[rest[0]] = Failed if self.error else answer
                self.text += "" if self.error else answer

    def read(self, name):
        if name not in self.values:
            raise Failed if self.error else KeyError(name)
        if self.values[name] is Failed:
            raise Failed
        return self.values[name]

    def fork(self, bodies):
        if self.error:
            raise Failed
        branches = [Told(self.text, self.values) for _ in bodies]
        for branch, body in zip(branches, bodies):
            branch.run(body)
        for name in dict.fromkeys(n for b in branches for n in b.values):
            if name in self.values:
                continue
            found = [b.values.get(name) for b in branches]
            lost = any(b.error and b.values.get(name, Failed) is Failed for b in branches)
            self.values[name] = Failed if lost else [None if v is Failed else v for v in found]


def play(s, steps):
    for kind, *rest in steps:
        if kind == "text":
            s += rest[0]
        elif kind == "gen":
            s += sgl.gen(rest[0], max_tokens=8)
        elif kind == "read":
            s[rest[0]]
        elif kind == "set":
            s[rest[0]] = rest[1]
        elif kind == "scope":
            with s.var_scope(rest[0]):
                s += rest[1]
        else:
            forks = s.fork(len(rest[0]))
            for f, body in zip(forks, rest[0]):
                play(f, body)
            forks.join()


@sgl.function
def program(s, steps):
    play(s, steps)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, min_size=1, max_size=4), st.sampled_from([1, 2, "auto"]))
def test_a_program_does_what_it_says(batch, at_once):
    backend = ScriptedTextBackend(lambda request: said(request.prompt.text))
    states = program.run_batch([(steps,) for steps in batch], backend=backend, num_threads=at_once)
    for state, steps in zip(states, batch):
        told = Told()
        try:
            told.run(steps)
        except (Failed, KeyError) as error:
            expected = ProgramError if isinstance(error, Failed) or error is Failed else KeyError
            assert isinstance(state.error(), expected)
            continue
        assert (state.error() is not None) == told.error
        for name, value in told.values.items():
            if value is Failed:
                try:
                    state[name]
                except ProgramError:
                    continue
                raise AssertionError(name)
            assert state[name] == value
        if not told.error:
            assert state.text() == told.text


@settings(deadline=None, max_examples=60)
@given(STEPS, st.integers(0, 6), st.integers(0, 120))
def test_an_account_is_never_overdrawn_and_what_was_sent_is_what_was_billed(steps, calls, tokens):
    backend = ScriptedTextBackend(lambda request: "ok")
    account = Account(Budget(calls, tokens))
    states = program.run_batch([(steps,)] * 3, backend=backend, account=account, num_threads=2)
    sent = len(backend.requests) + len(backend.prepared)
    assert account.spent.calls == sent <= calls and account.spent.tokens <= tokens
    assert account.left.calls == calls - sent  # nothing stays reserved
    assert sum((state.spent for state in states), Spent()) == account.spent
    for state in states:
        error = state.error()
        if isinstance(error, ProgramError):
            while isinstance(error, ProgramError) and error.__cause__:
                error = error.__cause__
            assert isinstance(error, BudgetSpent)
