"""Cases that schemathesis makes of our OpenAPI document: none is answered by a 5xx.

    pytest -m slow -s tests/integration/test_schemathesis.py     with `schemathesis` on the PATH

The same at any size by hand: `docs/server.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import needs, run

from evolute.engine import Engine
from evolute.server import Tenants, create_app, serve_in_thread

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), needs("schemathesis")]
AT_LEAST = 3000  # cases a key
HOLDS_ALL = "/pause_generation"  # every later case would wait


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    tenants = Tenants.of(["test"], admin_key="root")
    with Engine("tiny", context=256) as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"], tenants=tenants))
        yield server.url
        assert engine.is_alive
        engine.check()
        server.stop()


@pytest.mark.parametrize("key", ["test", "root"])
def test_no_case_is_a_fault_of_ours(url: str, tmp_path: Path, key: str) -> None:
    """Fails with the cases that were."""
    told = run(
        "schemathesis",
        *("run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
        *("-c", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "-n", "40"),
        *("--seed", "1", "--request-timeout", "60", "--exclude-path", HOLDS_ALL),
        cwd=tmp_path,
        timeout_s=1200,
    )
    found = re.search(r"([\d,]+) generated, ([\d,]+) passed", told)
    assert found is not None, told[-2000:]
    print(found.group())
    assert int(found[1].replace(",", "")) >= AT_LEAST
