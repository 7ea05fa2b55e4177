"""Is a planted bug found? `assert_found(machine)` runs a state machine until it fails."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import HypothesisException
from hypothesis.stateful import run_state_machine_as_test


def assert_found(machine, steps=40):
    """Always the same examples. Hypothesis's own complaints are not what was looked for."""
    run = settings(
        max_examples=2000,
        derandomize=True,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # finding it is enough
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(Exception) as found:  # noqa: PT011  any way of failing will do
        run_state_machine_as_test(machine, settings=run)
    assert not isinstance(found.value, HypothesisException)
