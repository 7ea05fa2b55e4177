"""What do users write? SGLang's names: a program runs after `import evolute.lang as sgl`.

@function                       a program; its first parameter is s
gen, gen_int, gen_string        text of the model's
select                          the most probable of some texts
system, user, assistant         turns; *_begin and *_end for their edges
separate_reasoning              gens that think before they answer
image, video                    refused: this build has no vision
flush_cache, get_server_info    of the default backend
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, overload

from evolute.lang.choices import ChoicesMethod, token_length_normalized
from evolute.lang.expressions import (
    Expr,
    Gen,
    GenOptions,
    RoleBegin,
    RoleEnd,
    Select,
    Thinking,
    lift,
    origin_of_caller,
)
from evolute.lang.interpreter.bridge import blocking
from evolute.lang.interpreter.program import AnyBackend, Program, text_backend_of
from evolute.types import NotSupported


@overload
def function(func: Callable[..., Any]) -> Program: ...
@overload
def function(
    *, num_api_spec_tokens: int | None = None
) -> Callable[[Callable[..., Any]], Program]: ...
def function(func: Any = None, num_api_spec_tokens: int | None = None) -> Any:
    """A function of `s` as a program. Raises ConfigError when its first parameter is not `s`."""
    if func is None:
        return lambda found: Program(found, num_api_spec_tokens)
    return Program(func, num_api_spec_tokens)


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesMethod | None = None,
    regex: str | None = None,
    json_schema: str | None = None,
    *,
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    tool_choice: str = "auto",
) -> Expr:
    """Generate, append, keep as variable `name`. None: the run's setting holds.

    `dtype` is int, float, bool or str; `choices` makes it a select. `tools` are functions with
    types or descriptions in JSON; what the model calls is in the meta information. Raises
    re.error for a regex that is none, ValueError for a list of choices that cannot be.
    """
    origin = origin_of_caller()
    if choices is not None:
        return Select(name, _choices(choices), choices_method, temperature or 0.0, origin)
    if regex is not None:
        re.compile(regex)
    options = GenOptions(
        max_tokens, min_tokens, n, stop, stop_token_ids, stop_regex, temperature, top_p, top_k,
        min_p, frequency_penalty, presence_penalty, ignore_eos, return_logprob, logprob_start_len,
        top_logprobs_num, return_text_in_logprobs, dtype, regex, json_schema, tuple(tools or ()),
        tool_choice,
    )  # fmt: skip
    return Gen(name, options, origin)


def gen_int(name: str | None = None, max_tokens: int | None = None, **options: Any) -> Expr:
    """`gen` of a whole number; its options less min_tokens, choices, regex and json_schema."""
    return _typed(int, name, max_tokens, options)


def gen_string(name: str | None = None, max_tokens: int | None = None, **options: Any) -> Expr:
    """`gen` of a text in double quotes; options as for `gen_int`."""
    return _typed(str, name, max_tokens, options)


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesMethod = token_length_normalized,
) -> Expr:
    """The choice that is most probable here, appended and kept as variable `name`.

    Raises ValueError for no choices, for empty ones and for one that is there twice.
    """
    return Select(name, _choices(choices), choices_method, temperature, origin_of_caller())


def system(expr: Any = None) -> Expr:
    return _turn("system", expr)


def user(expr: Any = None) -> Expr:
    return _turn("user", expr)


def assistant(expr: Any = None) -> Expr:
    return _turn("assistant", expr)


def system_begin() -> Expr:
    return RoleBegin("system")


def system_end() -> Expr:
    return RoleEnd("system")


def user_begin() -> Expr:
    return RoleBegin("user")


def user_end() -> Expr:
    return RoleEnd("user")


def assistant_begin() -> Expr:
    return RoleBegin("assistant")


def assistant_end() -> Expr:
    return RoleEnd("assistant")


def separate_reasoning(expr: Any = None, model_type: str | None = None) -> Expr:
    """Gens within leave only their answers in the prompt; what was thought is variable
    `NAME_reasoning_content`. `model_type` is a name of `evolute.lang.thinking.MODELS`."""
    return Thinking(lift("" if expr is None else expr), model_type)


def image(path: Any = None) -> NoReturn:
    raise NotSupported("image(): this build has no vision; describe the picture in words.")


def video(path: Any = None, num_frames: int = 0) -> NoReturn:
    raise NotSupported("video(): this build has no vision; describe the film in words.")


def flush_cache(backend: AnyBackend | None = None) -> None:
    """Empty the prefix cache. Raises NotSupported where there is none."""
    blocking(text_backend_of(backend).flush())


def get_server_info(backend: AnyBackend | None = None) -> Mapping[str, Any]:
    return blocking(text_backend_of(backend).describe())


class Elsewhere:
    """A service of SGLang's list that has no backend of its own here. Raises NotSupported."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotSupported(
            f"{type(self).__name__}: use OpenAI(model, base_url=..., api_key=...) with the address "
            "of its OpenAI-compatible API."
        )


class Anthropic(Elsewhere): ...


class LiteLLM(Elsewhere): ...


class VertexAI(Elsewhere): ...


class Crusoe(Elsewhere): ...


# -- internals ---------------------------------------------------------------


def _choices(choices: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(choices, str) or not choices:
        raise ValueError(f"choices are {choices!r}; give a list of texts.")
    for one in choices:
        if not isinstance(one, str) or not one:
            raise ValueError(f"{one!r} cannot be chosen; each choice is a text and not empty.")
    twice = [one for index, one in enumerate(choices) if one in choices[:index]]
    if twice:
        raise ValueError(f"{twice[0]!r} is among the choices twice; give each once.")
    return tuple(choices)


def _turn(role: str, expr: Any) -> Expr:
    return RoleBegin(role) + lift("" if expr is None else expr) + RoleEnd(role)


def _typed(
    dtype: type, name: str | None, max_tokens: int | None, options: Mapping[str, Any]
) -> Expr:
    for barred in ("min_tokens", "dtype", "choices", "choices_method", "regex", "json_schema"):
        if barred in options:
            raise TypeError(f"gen_{dtype.__name__} has no {barred!r}: its form is given already.")
    return gen(name, max_tokens, dtype=dtype, **options)
