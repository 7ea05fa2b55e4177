"""A tenant's limits bind it and nobody else, whatever order things come in."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.server import limits
from evolute.server.errors import FieldError
from evolute.server.limits import Guard, Limiter, Limits, Place, TooManyRequests, Traffic


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def refused(limiter, tenant):
    try:
        limiter.take(tenant)
    except TooManyRequests as error:
        return error.status == 429 and error.retry_after_s > 0
    return False


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from("ab")),
            st.tuples(st.just("give"), st.sampled_from("ab")),
            st.tuples(st.just("wait"), st.floats(0, 30)),
        ),
        max_size=60,
    )
)
def test_what_is_let_in_keeps_to_the_limits(steps):
    clock = Clock()
    limiter = Limiter(Limits(3, 12), clock=clock)
    flying, taken = {"a": 0, "b": 0}, {"a": [], "b": []}
    for action, what in steps:
        if action == "wait":
            clock.now += what
        elif action == "give":
            if flying[what]:
                limiter.give(what)
                flying[what] -= 1
        else:
            recent = taken[what]
            if refused(limiter, what):
                assert flying[what] == 3 or len(recent) >= 12
                continue
            flying[what] += 1
            recent.append(clock.now)
            assert flying[what] <= 3
            # a bucket: in t seconds at most a minute's worth and what t seconds bring
            for i, at in enumerate(recent):
                assert len(recent) - i <= 12 + (clock.now - at) * 12 / 60 + 1e-6
    assert limiter.in_flight() == {name: n for name, n in flying.items() if n}


def test_one_who_comes_back_when_told_is_let_in():
    clock = Clock()
    limiter = Limiter(Limits(0, 30), clock=clock)
    for _ in range(30):
        limiter.take("a")
    with pytest.raises(TooManyRequests, match="come back in 2 s") as caught:
        limiter.take("a")
    limiter.take("b")
    clock.now += caught.value.retry_after_s
    limiter.take("a")
    clock.now -= 500  # a clock that goes back lets nobody in for ever, nor out
    with pytest.raises(TooManyRequests):
        limiter.take("a")


def test_invented_names_do_not_fill_memory(monkeypatch):
    monkeypatch.setattr(limits, "FORGET_AT", 50)
    limiter = Limiter(Limits(1, 0))
    limiter.take("busy")
    for i in range(500):
        limiter.take(f"t{i}")
        limiter.give(f"t{i}")
    assert len(limiter._accounts) <= 51
    with pytest.raises(TooManyRequests):
        limiter.take("busy")


def test_inventing_names_does_not_make_the_limiter_forget_what_was_sent(monkeypatch):
    monkeypatch.setattr(limits, "FORGET_AT", 50)
    clock = Clock()
    limiter = Limiter(Limits(0, 60), clock=clock)
    for _ in range(60):
        limiter.take("spent")
        limiter.give("spent")
    for i in range(500):
        limiter.take(f"t{i}")
        limiter.give(f"t{i}")
    assert refused(limiter, "spent"), "it has nothing left in this minute"
    clock.now += 60
    for i in range(3000):
        limiter.take(f"u{i}")
        limiter.give(f"u{i}")
        clock.now += 1
    assert len(limiter._accounts) <= 2 * 500 + 1


def test_a_place_is_given_back_once():
    limiter = Limiter(Limits(1, 0))
    place = Place(limiter)
    place.take("a")
    with pytest.raises(TooManyRequests):
        Place(limiter).take("a")
    place.give_back()
    place.give_back()
    assert limiter.in_flight() == {}


# -- the guard -------------------------------------------------------------------------


def call(app, traffic, messages, path="/generate"):
    """Run the guard around `app` with a body in pieces; returns what was sent."""
    sent, pieces = [], list(messages)

    async def receive():
        if not pieces:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": "POST", "headers": [], "query_string": b""}
    asyncio.run(Guard(app, traffic)(scope, receive, send))
    return sent


async def reads(scope, receive, send):
    while (await receive()).get("more_body"):
        pass


def test_a_body_that_is_too_large_ends_while_it_comes():
    traffic = Traffic(max_body_bytes=10, max_upload_bytes=100)
    call(reads, traffic, [b"12345", b"67890"])
    with pytest.raises(FieldError, match="larger than 10 bytes") as caught:
        call(reads, traffic, [b"12345", b"678901", b"never read"])
    assert caught.value.status == 413
    call(reads, traffic, [b"x" * 100], path="/update_weights_from_tensor")
    assert traffic.in_flight == 0


def test_a_body_that_does_not_come_is_408(monkeypatch):
    monkeypatch.setattr(limits, "BODY_S", 0.05)

    with pytest.raises(FieldError, match="no more of the body") as caught:
        call(reads, Traffic(), [])
    assert caught.value.status == 408


def test_a_reader_who_takes_nothing_is_dropped_and_its_place_given_back(monkeypatch):
    monkeypatch.setattr(limits, "SEND_S", 0.05)
    traffic, errors = Traffic(Limiter(Limits(1, 0))), []

    async def answers(scope, receive, send):
        scope["state"]["place"].take("a")
        for _ in range(2):
            try:
                await send({"type": "http.response.body"})
            except ConnectionError as error:
                errors.append(error)
        raise errors[0]

    async def run():
        async def send(message):
            await asyncio.sleep(60)

        scope = {"type": "http", "path": "/generate"}
        await asyncio.wait_for(Guard(answers, traffic)(scope, None, send), 5)

    asyncio.run(run())
    assert len(errors) == 2  # the second at once: the first has shown that nobody reads
    assert traffic.limiter.in_flight() == {} and traffic.in_flight == 0


def test_a_drain_refuses_what_is_new_but_not_what_operators_need():
    traffic = Traffic(is_draining=True)
    sent = call(reads, traffic, [b""])
    assert sent[0]["status"] == 503
    assert b"retry-after" in dict(sent[0]["headers"])
    assert call(reads, traffic, [b""], path="/metrics") == []
