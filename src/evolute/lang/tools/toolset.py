"""Which tools a request offers and how free the model is to call them.

Toolset.of(tools, choice, named, parallel)    checked, or BadTools naming the field
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evolute.lang.tools.schema import complaint
from evolute.types import RequestError
from evolute.types.settings import nearest

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


class BadTools(RequestError):
    """Tools, a choice among them, or what they are asked together with, that cannot be.

    `param` names the field of the request.
    """

    def __init__(self, message: str, *, param: str, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Choice(StrEnum):
    NONE = "none"  # text only; the model is not told of the tools
    AUTO = "auto"  # the model decides
    REQUIRED = "required"  # at least one call, of any tool
    NAMED = "named"  # one call, of the tool that is named


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None  # JSON schema; None: takes nothing
    strict: bool = False  # also under AUTO, the arguments cannot leave the schema

    @property
    def schema(self) -> Mapping[str, Any]:
        return self.parameters or {"type": "object", "properties": {}}

    def as_json(self) -> dict[str, Any]:
        """The form that chat templates read."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Toolset:
    """Invariants: names differ; `named` is one of them under NAMED, else ''."""

    tools: tuple[Tool, ...] = ()
    choice: Choice = Choice.NONE
    named: str = ""
    parallel: bool = True

    @classmethod
    def of(
        cls,
        tools: Sequence[Tool],
        choice: Choice | None = None,  # None: AUTO
        named: str = "",
        *,
        parallel: bool = True,
        names_at: str = "tools[{}].function.name",
        schemas_at: str = "tools[{}].function.parameters",
    ) -> Toolset:
        """Raises BadTools (400) for names, schemas and choices that cannot be."""
        choice = choice or Choice.AUTO
        if choice is Choice.AUTO and not tools:
            choice = Choice.NONE
        if len(tools) > MAX_TOOLS:
            text = f"{len(tools)} tools; at most {MAX_TOOLS} are allowed."
            raise BadTools(text, param="tools")
        names = [tool.name for tool in tools]
        for i, tool in enumerate(tools):
            _check_name(tool.name, names[:i], names_at.format(i))
            problem = complaint(tool.schema, must_be_object=True)
            if problem:
                where = schemas_at.format(i)
                text = f"{where} of tool {tool.name!r} is no valid JSON schema: {problem}."
                raise BadTools(text, param=where, code="invalid_function_parameters")
        if choice not in (Choice.NONE, Choice.AUTO) and not tools:
            text = f"tool_choice {named or choice!s} needs tools; send them or choose none."
            raise BadTools(text, param="tool_choice")
        if choice is Choice.NAMED and named not in names:
            text = f"tool_choice names {named!r}, which is not in tools. {nearest(named, names)}"
            raise BadTools(text, param="tool_choice")
        return cls(tuple(tools), choice, named if choice is Choice.NAMED else "", parallel)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """What the model is told of."""
        return () if self.choice is Choice.NONE else self.tools

    @property
    def is_forced(self) -> bool:
        return self.choice in (Choice.REQUIRED, Choice.NAMED)


# -- internals ---------------------------------------------------------------


def _check_name(name: str, earlier: Sequence[str], where: str) -> None:
    if not NAME.fullmatch(name):
        text = f"{where} is {name[:80]!r}; use 1 to 64 of a-z A-Z 0-9 _ . -"
        raise BadTools(text, param=where)
    if name in earlier:
        raise BadTools(f"tool {name!r} is there twice; names must differ.", param=where)
