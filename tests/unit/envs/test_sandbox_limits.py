"""Limits that cannot be kept are refused when they are made."""

import pytest

from evolute.envs.sandbox.contract import Ending, RunReport, SandboxLimits
from evolute.types import ConfigError


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 2**31])
def test_a_limit_must_be_positive_and_finite(value):
    with pytest.raises(ConfigError, match="sandbox limit seconds"):
        SandboxLimits(seconds=value)


def test_a_program_is_well_only_if_it_ended_by_itself_with_0():
    assert RunReport(Ending.EXITED, "", "", 0.1, exit_code=0).is_ok
    assert not RunReport(Ending.EXITED, "", "", 0.1, exit_code=1).is_ok
    assert not RunReport(Ending.TIMEOUT, "", "", 2.0).is_ok
