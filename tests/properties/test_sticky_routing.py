"""Sessions stay where they are until that is too busy or dies; new ones go to the least busy."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from evolute.engine.replicas import Candidate, ReplicaConfig, Router, Sticky, make_policy
from evolute.types import GenerateRequest, SamplingParams

ONE = SamplingParams(max_new_tokens=4)


def router(count, stickiness):
    made = Router(make_policy(ReplicaConfig(count, "sticky", stickiness=stickiness)))
    for replica in range(count):
        made.add(replica, places=64, room=128, cache_tokens=1024)
    return made


def turn(session):
    return GenerateRequest((1, 2, 3), ONE, session=session)


@given(
    st.integers(2, 4),
    st.integers(0, 6),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["ask", "end", "die"])), max_size=60),
)
def test_a_session_moves_only_from_the_dead_and_the_too_busy(count, slack, events):
    routes = router(count, slack)
    homes, open_ = {}, []
    for number, event in events:
        if event == "end" and open_:
            routes.ended(open_.pop(number % len(open_)), None)
        elif event == "die" and len(routes.loads) > 1:
            routes.remove(sorted(routes.loads)[number % len(routes.loads)])
        elif event == "ask":
            session, before = f"s{number}", {r: load.in_flight for r, load in routes.loads.items()}
            ticket = routes.route(turn(session))
            least, home = min(before.values()), homes.get(session)
            if home in before and before[home] - least <= slack:
                assert ticket.replica == home
            else:
                assert before[ticket.replica] == least
            homes[session] = ticket.replica
            open_.append(ticket)


def test_no_replica_gets_far_ahead_by_one_busy_session():
    routes = router(2, 4)
    for _ in range(40):
        routes.route(turn("one"))
    counts = [load.in_flight for load in routes.loads.values()]
    assert max(counts) - min(counts) <= 4 + 1


def test_ties_do_not_all_go_to_the_first():
    policy, found = Sticky(8), Counter()
    for _ in range(300):
        candidates = [Candidate(r, 0, 1.0, 0.0, 0, True) for r in range(3)]
        found[policy.choose("t", 3, candidates).replica] += 1
    assert len(found) == 3 and min(found.values()) > 60


def test_what_a_replica_knew_of_sessions_goes_with_it():
    routes = router(2, 8)
    tickets = [routes.route(turn(f"s{i}")) for i in range(6)]
    routes.remove(0)
    assert {routes.route(turn(f"s{i}")).replica for i in range(6)} == {1}
    assert {t.replica for t in tickets} == {0, 1}


def test_sessions_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr("evolute.engine.replicas.policies.SESSIONS", 3)
    policy = Sticky(8)
    for number in range(10):
        policy.choose("t", 3, [Candidate(0, 0, 1.0, 0.0, 0, True, f"s{number}")])
    assert len(policy._homes) == 3
