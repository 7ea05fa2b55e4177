"""The options of a load test: what counts as given, and how servers are named."""

import inspect

import pytest

from evolute.cli.bench import bench
from evolute.cli.load_options import USUAL, Load
from evolute.types import ConfigError


def load(**given):
    return Load(USUAL | given)


def test_the_usual_values_are_those_of_the_command_line():
    parameters = inspect.signature(bench).parameters
    assert {name: parameters[name].default for name in USUAL} == USUAL


@pytest.mark.parametrize("name", [n for n in USUAL if n not in ("http", "url")])
def test_every_option_of_a_load_test_is_refused_elsewhere(name):
    usual = USUAL[name]
    given = not usual if isinstance(usual, bool) else 7.0
    with pytest.raises(ConfigError, match=f"--(no-)?{name.replace('_', '-')} puts load"):
        load(**{name: given}).refuse_unused("replay")
    load().refuse_unused("replay")


def test_servers_are_named_by_the_user_or_by_their_address():
    urls = ["vllm=http://h:1", "http://h:2/", "https://x/v1?a=http://b"]
    assert load(url=urls).urls() == [
        ("vllm", "http://h:1"),
        ("h:2", "http://h:2/"),
        ("x/v1?a=http://b", "https://x/v1?a=http://b"),
    ]


def test_chat_takes_texts_without_being_told():
    assert load(endpoint="chat").target("s", "http://h", "").prompts == "text"
    assert load().target("s", "http://h", "").prompts == "ids"
