"""Methods by name, and the models that play their roles.

METHODS                                        name -> "module:factory"
make_method(name, roles, sandbox, settings)    a Method, with its own settings checked
roles_of(parts, solver) -> Roles               PART=URL#MODEL, as the command line has them
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from evolute.envs.sandbox.contract import Sandbox
    from evolute.lang.backend import TextBackend
    from evolute.reasoning.method import Method, Roles

_PLAIN, _S_STAR = "evolute.reasoning.baselines", "evolute.reasoning.s_star.method"
METHODS = {  # loaded when it is used
    "greedy": f"{_PLAIN}:make_direct",
    "cot": f"{_PLAIN}:make_cot",
    "majority": f"{_PLAIN}:make_majority",
    "tree_of_thoughts": f"{_PLAIN}:make_tree_of_thoughts",
    "pal": f"{_PLAIN}:make_pal",
    "thought_buffer": "evolute.reasoning.thought_buffer.method:make_thought_buffer",
    "s_star": f"{_S_STAR}:make_s_star",
    "s_star_plus": f"{_S_STAR}:make_s_star_plus",
    "public": f"{_S_STAR}:make_public",
    "public_majority": f"{_S_STAR}:make_public_majority",
    "generated_tests": f"{_S_STAR}:make_generated_tests",
    "best_of_n": f"{_S_STAR}:make_best_of_n",
    "oracle": f"{_S_STAR}:make_oracle",
}
CODE_MAJORITY = f"{_S_STAR}:make_majority"  # programs vote by what they print
SOLVER = "solver"


def make_method(
    name: str,
    roles: Roles,
    sandbox: Callable[[], Sandbox],
    settings: Mapping[str, Any],
    *,
    writes_code: bool = False,
) -> Method:
    """A method by name. Raises ConfigError for an unknown one, or unknown settings."""
    from evolute.types import ConfigError
    from evolute.types.settings import nearest

    if name not in METHODS:
        raise ConfigError(f"no method {name!r}. {nearest(name, METHODS)}")
    target = CODE_MAJORITY if name == "majority" and writes_code else METHODS[name]
    module, _, factory = target.partition(":")
    make = getattr(importlib.import_module(module), factory)
    return cast("Method", make(roles, sandbox, settings))


def roles_of(parts: Iterable[str], solver: Callable[[], TextBackend]) -> Roles:
    """`solver()` is made unless a part names another solver. Raises ConfigError."""
    from evolute.reasoning.method import Roles
    from evolute.types import ConfigError

    found: dict[str, TextBackend] = {}
    for text in parts:
        part, separator, place = text.partition("=")
        url, _, model = place.partition("#")
        if not separator or not part or "://" not in url:
            raise ConfigError(
                f"--role {text!r}: write PART=URL#MODEL, e.g. judge=http://host/v1#m."
            )
        if part in found:
            raise ConfigError(f"--role {part} stands there twice; name each part once.")
        found[part] = endpoint(url, model)
    first = found.pop(SOLVER) if SOLVER in found else solver()
    return Roles(first, found)


def endpoint(url: str, model: str = "") -> TextBackend:
    """With a model's name any OpenAI-compatible endpoint (its key in OPENAI_API_KEY), without one
    an Evolute server by its own protocol."""
    from evolute.lang.endpoints import OpenAI, RuntimeEndpoint

    return OpenAI(model, base_url=url) if model else RuntimeEndpoint(url)
