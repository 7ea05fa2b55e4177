"""What one step admits and whom it sends away, on cases small enough to count by hand."""

from evolute.engine.scheduling import (
    Arrival,
    Candidate,
    Limits,
    Sequence,
    SimulationSettings,
    make_policy,
    next_step,
    simulate,
)
from evolute.engine.scheduling.policies import PolicySettings


def waiting(*sequences, policy="fcfs"):
    queue = make_policy(PolicySettings(policy))
    for sequence in sequences:
        queue.push(sequence)
    return queue


def test_pages_of_a_prompt_that_ends_in_this_step_are_counted_once():
    """Of 8 pages the last chunk of a running prompt takes 2, so a newcomer of 6 fits."""
    begun = Sequence(0, 64, list(range(64)), 1, pages=[0, 1], num_computed=32)
    newcomer = Sequence(1, 78, list(range(100, 178)), 1)
    limits = Limits(token_budget=512, available_pages=8, page_size=16, max_running=8)
    step = next_step([begun], waiting(newcomer), lambda s: Candidate(s, 0, 0), limits)
    assert step.admitted == [newcomer] and step.blocked is None


def test_pages_that_a_begun_prompt_still_wants_are_not_given_away():
    begun = Sequence(0, 64, list(range(64)), 1, pages=[0, 1], num_computed=32)
    newcomer = Sequence(1, 8, list(range(100, 108)), 1)
    limits = Limits(token_budget=512, available_pages=1, page_size=16, max_running=8)
    step = next_step([begun], waiting(newcomer), lambda s: Candidate(s, 0, 0), limits)
    assert not step.admitted


def test_nothing_is_computed_of_one_whose_pages_come_back_and_its_pages_are_spoken_for():
    """Three of its pages are still to come: of five pages the newcomers may have two."""
    decodes = Sequence(0, 8, list(range(9)), 4, pages=[0], num_computed=8)
    restores = Sequence(1, 80, list(range(80)), 1, pages=[1], num_computed=16, num_restoring=3)
    fits = Sequence(2, 8, list(range(200, 208)), 1)
    does_not = Sequence(3, 40, list(range(300, 340)), 1)
    limits = Limits(token_budget=512, available_pages=5, page_size=16, max_running=8)
    for newcomer, admitted in ((fits, [fits]), (does_not, [])):
        step = next_step(
            [decodes, restores], waiting(newcomer), lambda s: Candidate(s, 0, 0), limits
        )
        assert [chunk.sequence for chunk in step.chunks] == [decodes, *admitted]
        assert step.admitted == admitted and not step.preempted


def test_nobody_gives_up_a_place_for_one_that_waits_for_its_sibling():
    """A chat's prefix is being computed by another tenant's; a place would not help it."""
    prefix = tuple(range(400))
    arrivals = [Arrival(0, (900 + i,), 60, "rollouts") for i in range(3)]
    arrivals += [Arrival(20, (*prefix, 500), 4, "editor"), Arrival(21, (*prefix, 501), 4, "chat")]
    limits = SimulationSettings(200, 8, 32, 4, "dlpm")
    replay = simulate(arrivals, limits)
    assert replay.preemptions == 1, "one, once its prefix is there"
    assert replay.cached_tokens[4] == 400
    began = [any(who == 4 for who, _ in step) for step in replay.schedule].index(True)
    ended = max(i for i, step in enumerate(replay.schedule) if (3, 1) in step)
    assert began <= ended + 1, "and it need not wait for more"


def test_a_tenant_with_another_request_that_is_ready_takes_a_place():
    prefix = tuple(range(400))
    arrivals = [Arrival(0, (900 + i,), 60, "rollouts") for i in range(3)]
    arrivals += [Arrival(20, (*prefix, 500), 4, "editor"), Arrival(21, (*prefix, 501), 4, "chat")]
    arrivals += [Arrival(21, (700, 701), 4, "chat")]
    replay = simulate(arrivals, SimulationSettings(200, 8, 32, 4, "dlpm"))
    waited, later = replay.waited_steps[5], replay.waited_steps[4]
    assert waited < later, "the one that waits for its sibling does not hold it up"
    assert all(sum(n for _, n in step) == 32 for step in replay.schedule[21 : 21 + waited]), (
        "it waits only while another prompt takes all tokens of a step"
    )
