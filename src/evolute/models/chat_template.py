"""A model's chat template: messages in, the text that the model was trained on out.

ChatTemplate(source, bos=, eos=).render(messages)   the conversation
                                 .open(messages)    the same, its last turn left open
                                 .variables         names that the template reads

The names that a template may use are those of transformers: loop controls, `tojson`,
`raise_exception`, `strftime_now`, and the mark `{% generation %}`, which changes nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evolute.types import Message, ModelError, RequestError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPEN_END = "here-the-turn-goes-on"


class ChatTemplate:
    """A compiled template. Raises ModelError when the source is no template."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        environment = _environment()
        try:
            self._compiled = environment.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))
        except (jinja2.TemplateError, TypeError) as error:
            raise ModelError(
                f"the model's chat template cannot be compiled: {error}. Fetch the model again, or "
                "correct its chat_template."
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Raises RequestError when the template refuses the messages."""
        values = {
            **(variables or {}),
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": None,
            **self._tokens,
        }
        try:
            return self._compiled.render(values)
        except Exception as error:  # a template is a program of strangers
            raise RequestError(
                f"the model's chat template refuses these messages: {error}"
            ) from error

    def open(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Up to the last character of the last message, be it empty or end in white space.

        A mark behind the content shows where the template put it. Raises RequestError when there
        is no message, or the template leaves the last one out.
        """
        if not messages:
            raise RequestError("there is no message to continue; send at least one.")
        mark = OPEN_END
        while any(mark in message["content"] for message in messages):
            mark += "-"
        last: Any = {**messages[-1], "content": messages[-1]["content"] + mark}
        before, found, _ = self.render(
            [*messages[:-1], last], add_generation_prompt=False, tools=tools, variables=variables
        ).rpartition(mark)
        if not found:
            raise RequestError(
                "the model's chat template leaves out the last message, so it cannot be continued; "
                "send it without continue_final_message."
            )
        return before


# -- internals ---------------------------------------------------------------


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` is what stands between."""

    tags = {"generation"}  # noqa: RUF012 - the name and type are jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _fail
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _fail(message: str) -> None:
    raise jinja2.TemplateError(message)
