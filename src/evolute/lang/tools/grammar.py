"""What an answer may look like when its form is not left to the model.

    constraint(toolset, format, ...) -> {}, {"json_schema": text} or {"lark": text}

REQUIRED: an array of {"name", "parameters"}; NAMED: the tool's arguments. AUTO with a schema for
the answer: either that or calls; AUTO with a strict tool: text in which a call, once begun,
keeps to its tool's schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evolute.grammar import JSON_WHITESPACE
from evolute.lang.tools.parsers import CLOSE, OPEN, ToolFormat
from evolute.lang.tools.toolset import BadTools, Choice, Tool, Toolset

MAX_CALLS = 64  # of one answer: a small model can go on for ever


def constraint(
    toolset: Toolset,
    format: ToolFormat,
    *,
    schema: str | None = None,  # of an answer without calls
    field: str = "response_format",  # where that came from
    has_special_tags: bool = False,  # see `hides_tags`
) -> dict[str, str]:
    """The grammar as fields of SamplingParams. Raises BadTools when two exclude each other."""
    if toolset.is_forced:
        if schema is not None:
            text = f"{field} and tool_choice exclude each other: it demands a call. Keep one."
            raise BadTools(text, param=field)
        return {"json_schema": json.dumps(_forced(toolset))}
    if not toolset.offered:
        return {} if schema is None else {"json_schema": schema}
    if schema is None and not any(tool.strict for tool in toolset.offered):
        return {}
    if format is ToolFormat.HERMES:
        return {"lark": _tagged(toolset, schema, are_special=has_special_tags)}
    if schema is None:
        text = "'tools' is not supported: this model's calls are bare JSON and stay free under "
        text += "tool_choice auto; leave out strict, or choose required."
        raise BadTools(text, param="tools", code="not_supported")
    rules = ["%llguidance {}", "start: answer | calls", f"answer: {_json(json.loads(schema))}"]
    return {"lark": "\n".join([*rules, f"calls: {_json(_calls(toolset))}"])}


# -- internals ---------------------------------------------------------------


def _forced(toolset: Toolset) -> Any:
    if toolset.choice is Choice.REQUIRED:
        return _calls(toolset)
    (tool,) = [tool for tool in toolset.tools if tool.name == toolset.named]
    return tool.schema


def _calls(toolset: Toolset) -> dict[str, Any]:
    schemas = {f"tool_{i}": _rooted(tool, i) for i, tool in enumerate(toolset.tools)}
    each = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "parameters": {"$ref": f"#/$defs/tool_{i}"},
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(toolset.tools)
    ]
    return {
        "type": "array",
        "items": {"anyOf": each},
        "minItems": 1,
        "maxItems": MAX_CALLS if toolset.parallel else 1,
        "$defs": schemas,
    }


def _rooted(tool: Tool, position: int) -> Any:
    """The tool's schema with its references meant from where it now stands."""
    return _moved(tool.schema, f"#/$defs/tool_{position}")


def _moved(value: Any, root: str) -> Any:
    if isinstance(value, Mapping):
        moved = {key: _moved(inner, root) for key, inner in value.items()}
        target = moved.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            moved["$ref"] = root + target[1:]
        return moved
    return [_moved(inner, root) for inner in value] if isinstance(value, list) else value


def _tagged(toolset: Toolset, schema: str | None, *, are_special: bool) -> str:
    """Calls between tags: in any text, or instead of an answer that has a schema.

    Tools that are not strict may be given any object. A tag that is a control token is named
    without quotes.
    """
    opens, closes = (OPEN, CLOSE) if are_special else (json.dumps(OPEN), json.dumps(CLOSE))
    if schema is None:
        lazy = "" if are_special else "[lazy]"  # the prose ends at the first tag
        rules = ["start: call* PROSE", f"head{lazy}: PROSE {opens}", f"tail: {closes}"]
        rules += [r"PROSE: /(.|\n)*/"]
    else:
        rules = [f"start: answer | call{'+' if toolset.parallel else ''}"]
        rules += [f"answer: {_json(json.loads(schema))}", f"head: {opens}"]
        rules += [f"tail: {closes} SPACE", r"SPACE: /[ \n]{0,4}/"]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(toolset.tools))))
    end = json.dumps("}\n")
    for i, tool in enumerate(toolset.tools):
        begin = json.dumps('\n{"name": ' + json.dumps(tool.name) + ', "arguments": ')
        arguments = tool.schema if tool.strict else {"type": "object"}
        rules.append(f"call_{i}: head {begin} args_{i} {end} tail")
        rules.append(f"args_{i}: {_json(arguments)}")
    return "\n".join(["%llguidance {}", *rules])


def _json(schema: Any) -> str:
    """A rule for JSON of this schema, its white space bounded as that of other schemas."""
    if isinstance(schema, Mapping):
        schema = {"x-guidance": {"whitespace_pattern": JSON_WHITESPACE}, **schema}
    return f"%json {json.dumps(schema)}"
