"""Programs of dependent generations, with SGLang's names, on any backend.

import evolute.lang as sgl

@sgl.function
def ask(s, question):
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=64))

sgl.set_default_backend(engine)      an Engine, RuntimeEndpoint(url), OpenAI(model), ...
ask.run(question="Why is the sky blue?")["answer"]
"""

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
