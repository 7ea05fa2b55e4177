"""A decoder of about a million weights that writes calls of tools in the Hermes form.

tool_pupil(seed, phrases) -> LoadedModel        untrained
written(name, arguments) -> text                a call as it is to write it

Its vocabulary is bytes, syllables of made-up names, and phrases of its world: a sentence that never
changes is one token, so that what it has to attend to stands near. Of the tools its chat template
tells the names: what they take it learns from examples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.envs.madewords import SYLLABLES
from evolute.models import LoadedModel
from evolute.models.tokenizer import ChatTokenizer
from evolute.reasoning.demonstrations.student import student

TEMPLATE = (
    "{% if tools %}{{ 'Tools:' }}{% for tool in tools %}{{ ' ' + tool.function.name }}"
    "{% endfor %}{{ ' <tool_call><|im_end|>' }}{% endif %}"
    "{% for m in messages %}{{ '<|answer|>' if m.role == 'assistant' else '<|question|>' }}"
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}"
)
CALL, END_CALL = "<tool_call>\n", "\n</tool_call>"
PHRASES = (
    *("Tools:", "<tool_call>", '"}}' + END_CALL, "{}}" + END_CALL),
    *("[This is your last turn: give your answer now.]", "[You have ", " turns left.]"),
    *SYLLABLES,
    *(syllable.capitalize() for syllable in SYLLABLES),
)


def tool_pupil(
    seed: int, phrases: Sequence[str], width: int = 128, num_layers: int = 4
) -> LoadedModel:
    """The same for the same arguments."""
    known = tuple(dict.fromkeys((*PHRASES, *phrases)))
    model = student(seed, width, num_layers, known, width**-0.5)
    tokenizer = ChatTokenizer(
        model.tokenizer.tokenizers, eos_token_id=model.tokenizer.eos_token_id, template=TEMPLATE
    )
    return dataclasses.replace(model, name=f"pupil-{seed}", tokenizer=tokenizer)


def written(name: str, arguments: Mapping[str, Any]) -> str:
    """One call of a tool."""
    body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"{CALL}{body}{END_CALL}"


def opened(name: str, parameter: str) -> str:
    """The beginning of each call of a tool with one parameter: a phrase."""
    return written(name, {parameter: ""}).removesuffix('"}}' + END_CALL)
