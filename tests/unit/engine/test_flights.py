"""Every request has one end, whatever happens to the replicas; the router's books agree."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.engine.replicas import ReplicaConfig, Router, make_policy
from evolute.engine.replicas.actor import Failed
from evolute.engine.replicas.flights import Flights
from evolute.types import (
    BackendError,
    Delta,
    FinishReason,
    GenerateRequest,
    OutOfCapacity,
    Output,
    PromptTooLong,
    RequestError,
    SamplingParams,
)


class Remote:
    """A method of a fake actor."""

    def __init__(self, call):
        self.remote = call


class Actor:
    """Makes nothing by itself: tests say what there is of news."""

    def __init__(self):
        self.got, self.aborted = {}, []
        self.submit = Remote(self.got.__setitem__)
        self.abort = Remote(self.aborted.append)


class Fleet:
    def __init__(self, count=2, routing="d2lpm"):
        self.router = Router(make_policy(ReplicaConfig(count, routing, 64)), 4)
        self.actors = {}
        self.flights = Flights(self.router, self.actors.get)
        for index in range(count):
            self.start(index)

    def start(self, index):
        self.actors[index] = Actor()
        self.router.add(index, places=2, room=8, cache_tokens=64)

    def lose(self, index):
        with self.flights.lock:
            self.router.remove(index)
        self.flights.lost(index, "it was killed")

    def send(self, id="r", *, n=1, may_repeat=False, prompt=(1, 2, 3)):
        heard = []
        request = GenerateRequest(prompt, SamplingParams(max_new_tokens=9, n=n), id=id)
        return self.flights.send(request, heard.append, may_repeat=may_repeat), heard

    def say(self, flight, item):
        self.flights.hear([(flight.key, item)])

    def check_empty(self):
        assert len(self.flights) == 0 and not self.flights._by_id
        assert all(not load.in_flight and not load.service for load in self.router.loads.values())


def token(index=0):
    return Delta(index, "x", (7,), (0.0,))


def last(index=0, made=(7,)):
    output = Output("x", made, (0.0,) * len(made), FinishReason.STOP, 0, 0, 3, index=index)
    return Delta(index, "", (), (), output=output)


def test_news_reach_whoever_asked_and_nobody_else():
    fleet = Fleet()
    (one, heard), (other, silent) = fleet.send("a"), fleet.send("b")
    assert one.ticket.replica != other.ticket.replica, "the second goes to the less loaded"
    fleet.say(one, token())
    fleet.say(one, last())
    assert heard == [token(), last()] and silent == []
    fleet.say(one, token())  # after its end: nobody
    assert len(heard) == 2
    fleet.say(other, Failed(PromptTooLong("too long")))
    assert isinstance(silent[0], PromptTooLong)
    fleet.check_empty()


def test_an_id_in_flight_is_refused_and_free_again_after():
    fleet = Fleet()
    flight, _ = fleet.send("same")
    with pytest.raises(RequestError, match="ids are unique"):
        fleet.send("same")
    fleet.flights.leave(flight)
    assert fleet.actors[flight.ticket.replica].aborted == [flight.key]
    fleet.send("same")


def test_what_was_not_heard_of_goes_elsewhere_once():
    fleet = Fleet()
    flight, heard = fleet.send()
    first = flight.ticket.replica
    fleet.lose(first)
    assert heard == [] and flight.ticket.replica != first
    assert list(fleet.actors[1 - first].got) == [flight.key]
    fleet.start(first)
    fleet.lose(1 - first)
    assert isinstance(heard[0], BackendError) and "second time" in str(heard[0])
    fleet.check_empty()


def test_what_was_heard_of_ends_unless_whole_outputs_are_awaited():
    fleet = Fleet(count=3)
    flight, heard = fleet.send("stream")
    fleet.say(flight, token())
    fleet.lose(flight.ticket.replica)
    assert "incomplete" in str(heard[1])
    whole, told = fleet.send("whole", n=2, may_repeat=True)
    fleet.say(whole, last(0))
    fleet.lose(whole.ticket.replica)
    fleet.say(whole, last(1))
    assert told[-1] == last(1) and len(fleet.flights) == 1, "both outputs are awaited anew"
    fleet.say(whole, last(0))
    fleet.check_empty()


def test_without_a_replica_nothing_is_accepted_and_nothing_waits_for_ever():
    fleet = Fleet(count=1)
    _, heard = fleet.send()
    fleet.lose(0)
    assert isinstance(heard[0], OutOfCapacity)
    with pytest.raises(OutOfCapacity, match="no replica lives"):
        fleet.send("next")


def test_a_listener_that_fails_is_given_up():
    fleet = Fleet()

    def tell(item):
        raise RuntimeError("Event loop is closed")

    flight = fleet.flights.send(GenerateRequest((1,)), tell, may_repeat=False)
    fleet.say(flight, token())
    assert fleet.actors[flight.ticket.replica].aborted == [flight.key]
    fleet.check_empty()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_each_request_has_one_end_whatever_dies(seed):
    draw, fleet, sent = random.Random(seed), Fleet(count=3), []
    for step in range(120):
        what, living = draw.random(), list(fleet.router.loads)
        if what < 0.06 and living:
            fleet.lose(draw.choice(living))
        elif what < 0.12 and len(living) < 3:
            fleet.start(draw.choice([i for i in range(3) if i not in living]))
        elif what < 0.5:
            prompt = tuple(draw.choices(range(2), k=draw.randint(1, 12)))
            try:
                sent.append(
                    fleet.send(str(step), n=draw.choice([1, 2]), may_repeat=draw.random() < 0.5)
                    if draw.random() < 0.5
                    else fleet.send(str(step), prompt=prompt)
                )
            except OutOfCapacity:
                assert not living
        elif sent:
            flight, _ = draw.choice(sent)
            index = draw.randrange(flight.request.sampling.n)
            if what < 0.9:
                fleet.say(flight, draw.choice([token, last])(index))
            elif what < 0.95:
                fleet.say(flight, Failed(RequestError("no")))
            else:
                fleet.flights.leave(flight)
    fleet.flights.end_all(RequestError("closed"))
    fleet.check_empty()
    for _, heard in sent:
        errors = [item for item in heard if isinstance(item, Exception)]
        assert len(errors) <= 1 and errors == heard[len(heard) - len(errors) :]
