"""Whatever comes in whatever order: a model's requests keep theirs, and all are served."""

from hypothesis import given
from hypothesis import strategies as st

from evolute.train.tinker.records import Kind
from evolute.train.tinker.schedule import BETWEEN, Item, Rules, choose

PASSES = (Kind.FORWARD, Kind.FORWARD_BACKWARD)
KINDS = st.sampled_from([*PASSES, *PASSES, Kind.STEP, Kind.SAVE])
PROGRAMS = st.dictionaries(st.sampled_from("abc"), st.lists(KINDS, max_size=12), min_size=1)


def items_of(programs, order):
    """Each program numbered from 1, in the order of `order`."""
    made = {}
    for model, kinds in programs.items():
        for i, kind in enumerate(kinds, 1):
            id = f"{model}{i}"
            made[id] = Item(id, model, kind, i, float(i), float(order.index(id)))
    return made


@st.composite
def arrivals(draw):
    programs = draw(PROGRAMS)
    ids = [f"{model}{i}" for model, kinds in programs.items() for i in range(1, len(kinds) + 1)]
    return programs, draw(st.permutations(ids)), draw(st.integers(1, 5))


def drain(items, look_ahead, paused=(), gap_s=1e9):
    """Everything that is chosen, in order, with all of it there."""
    queues, progress, served, chosen = {}, {}, {}, []
    for item in items.values():
        queues.setdefault(item.model_id, []).append(item)
    while (choice := choose(queues, progress, served, paused, 1e6, Rules(look_ahead, gap_s))).items:
        chosen.append(choice.items)
        model = choice.items[0].model_id
        taken = {item.id for item in choice.items}
        queues[model] = [item for item in queues[model] if item.id not in taken]
        progress[model] = max(progress.get(model, 0), max(i.seq for i in choice.items))
        served[model] = len(chosen)
    return chosen, queues


@given(arrivals())
def test_every_request_is_served_once_in_its_models_order(case):
    programs, order, look_ahead = case
    chosen, left = drain(items_of(programs, order), look_ahead)
    assert not any(left.values())
    for model, kinds in programs.items():
        served = [item.seq for items in chosen for item in items if item.model_id == model]
        assert served == list(range(1, len(kinds) + 1))


@given(arrivals())
def test_only_passes_are_computed_together_and_never_beyond_a_barrier(case):
    programs, order, look_ahead = case
    chosen, _ = drain(items_of(programs, order), look_ahead)
    for items in chosen:
        assert len(items) <= look_ahead
        assert len({item.model_id for item in items}) == 1
        assert len(items) == 1 or all(item.kind.is_pass for item in items)
        assert [item.seq for item in items] == list(range(items[0].seq, items[-1].seq + 1))


@given(arrivals(), st.sampled_from("abc"))
def test_a_paused_model_pauses_nobody_else(case, paused):
    programs, order, look_ahead = case
    items = items_of(programs, order)
    chosen, left = drain(items, look_ahead, {paused})
    others = {item.id for item in items.values() if item.model_id != paused}
    assert {item.id for items in chosen for item in items} == others
    assert len(left.get(paused, [])) == len(programs.get(paused, []))


@given(arrivals())
def test_models_take_turns(case):
    programs, order, look_ahead = case
    chosen, _ = drain(items_of(programs, order), look_ahead)
    turns = [items[0].model_id for items in chosen]
    for i, model in enumerate(turns):
        for other in set(turns[i + 1 :]) - {model}:
            between = turns[i + 1 :].index(other)
            again = turns[i + 1 :].index(model) if model in turns[i + 1 :] else len(turns)
            assert between < again, f"{model} was served twice while {other} waited"


def test_a_missing_number_is_waited_for_and_not_for_ever():
    second = Item("a2", "a", Kind.STEP, 2, 2.0, 10.0)
    waiting = choose({"a": [second]}, {}, {}, (), 10.5, Rules(8, 1.0))
    assert not waiting.items and waiting.wait_s == 0.5
    first = Item("a1", "a", Kind.FORWARD_BACKWARD, 1, 1.0, 10.6)
    assert choose({"a": [second, first]}, {}, {}, (), 10.6).items == (first,)
    assert choose({"a": [second]}, {}, {}, (), 11.0, Rules(8, 1.0)).items == (second,)


def test_a_missing_number_holds_up_nobody_else():
    second = Item("a2", "a", Kind.STEP, 2, 2.0, 0.0)
    other = Item("b1", "b", Kind.STEP, 1, 1.0, 0.0)
    assert choose({"a": [second], "b": [other]}, {}, {}, (), 0.0).items == (other,)


def test_what_has_no_number_comes_behind_what_was_there():
    step = Item("a1", "a", Kind.STEP, 1, 1.0, 0.0)
    unload = Item("u", "a", Kind.UNLOAD, None, 1.0 + BETWEEN, 0.0)
    assert choose({"a": [unload, step]}, {}, {}, (), 0.0).items == (step,)
