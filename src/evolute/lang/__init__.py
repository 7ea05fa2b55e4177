"""Programs of dependent generations, with SGLang's names, on any backend.

import evolute.lang as sgl

@sgl.function
def ask(s, question):
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=64))

sgl.set_default_backend(engine)      an Engine, RuntimeEndpoint(url), OpenAI(model), ...
ask.run(question="Why is the sky blue?")["answer"]

Each name brings its file when it is first used: a server reads `tools` and no programs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolute.lang.account import Account, Budget, Spent
    from evolute.lang.api import (
        Anthropic,
        Crusoe,
        LiteLLM,
        VertexAI,
        assistant,
        assistant_begin,
        assistant_end,
        flush_cache,
        function,
        gen,
        gen_int,
        gen_string,
        get_server_info,
        image,
        select,
        separate_reasoning,
        system,
        system_begin,
        system_end,
        user,
        user_begin,
        user_end,
        video,
    )
    from evolute.lang.choices import (
        greedy_token_selection,
        likelihood,
        token_length_normalized,
        unconditional_likelihood_normalized,
    )
    from evolute.lang.endpoints import OnTokens, OpenAI, Runtime, RuntimeEndpoint, as_text_backend
    from evolute.lang.interpreter.forks import ForkGroup
    from evolute.lang.interpreter.program import Program
    from evolute.lang.interpreter.state import ProgramState
    from evolute.lang.metered import Metered
    from evolute.lang.settings import global_config, set_default_backend

FILES: dict[str, tuple[str, ...]] = {
    "account": (
        "Account",
        "Budget",
        "Spent",
    ),
    "api": (
        "Anthropic",
        "Crusoe",
        "LiteLLM",
        "VertexAI",
        "assistant",
        "assistant_begin",
        "assistant_end",
        "flush_cache",
        "function",
        "gen",
        "gen_int",
        "gen_string",
        "get_server_info",
        "image",
        "select",
        "separate_reasoning",
        "system",
        "system_begin",
        "system_end",
        "user",
        "user_begin",
        "user_end",
        "video",
    ),
    "choices": (
        "greedy_token_selection",
        "likelihood",
        "token_length_normalized",
        "unconditional_likelihood_normalized",
    ),
    "endpoints": (
        "OnTokens",
        "OpenAI",
        "Runtime",
        "RuntimeEndpoint",
        "as_text_backend",
    ),
    "interpreter.forks": ("ForkGroup",),
    "interpreter.program": ("Program",),
    "interpreter.state": ("ProgramState",),
    "metered": ("Metered",),
    "settings": (
        "global_config",
        "set_default_backend",
    ),
}
ON_USE = {name: file for file, names in FILES.items() for name in names}

__all__ = [
    "Account",
    "Anthropic",
    "Budget",
    "Crusoe",
    "ForkGroup",
    "LiteLLM",
    "Metered",
    "OnTokens",
    "OpenAI",
    "Program",
    "ProgramState",
    "Runtime",
    "RuntimeEndpoint",
    "Spent",
    "VertexAI",
    "as_text_backend",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "global_config",
    "greedy_token_selection",
    "image",
    "likelihood",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]


def __getattr__(name: str) -> Any:
    if name in ON_USE:
        return getattr(import_module(f"evolute.lang.{ON_USE[name]}"), name)
    raise AttributeError(f"module 'evolute.lang' has no attribute {name!r}")
