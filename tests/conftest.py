"""What must be set before anything is imported: Triton reads it when it is first imported.

Tests that need a GPU are run by `TRITON_INTERPRET=0 pytest -m gpu`; all others interpret, also on
a machine that has one.
"""

import os

import pytest
from hypothesis import settings
from long_variants import is_long

os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # else 3.9 warns that 3.10 will change it


settings.register_profile("no-seconds", deadline=None)
settings.load_profile("no-seconds")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_long(item.nodeid):
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "write the pictures of pages in docs/images anew"
    parser.addoption("--update-screenshots", action="store_true", help=text)
