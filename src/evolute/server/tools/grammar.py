"""What an answer may look like when its calls are not left to the model.

    constraint(toolset, format) -> {}, {"json_schema": text} or {"lark": text}

REQUIRED: an array of {"name", "parameters"}; NAMED: the tool's arguments; AUTO with a strict
tool: text in which a call, once begun, keeps to its tool's schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evolute.server.errors import not_supported
from evolute.server.tools.parsers import CLOSE, OPEN, ToolFormat
from evolute.server.tools.toolset import Choice, Tool, Toolset

MAX_CALLS = 64  # of one answer: a small model can go on for ever


def constraint(toolset: Toolset, format: ToolFormat) -> dict[str, str]:
    """The grammar as fields of SamplingParams."""
    if toolset.choice is Choice.NAMED:
        (tool,) = [tool for tool in toolset.tools if tool.name == toolset.named]
        return {"json_schema": json.dumps(tool.schema)}
    if toolset.choice is Choice.REQUIRED:
        return {"json_schema": json.dumps(_calls(toolset))}
    if not any(tool.strict for tool in toolset.offered):
        return {}
    if format is not ToolFormat.HERMES:
        text = "this model's calls are bare JSON and stay free under tool_choice auto; leave out "
        raise not_supported("tools", text + "strict, or choose required.")
    return {"lark": _tagged(toolset)}


# -- internals ---------------------------------------------------------------


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


def _tagged(toolset: Toolset) -> str:
    """Any text, and in it calls; tools that are not strict may be given any object."""
    rules = ["%llguidance {}", "start: call* rest", "rest: PROSE", r"PROSE: /(.|\n)*/"]
    rules += [f"head[lazy]: PROSE {json.dumps(OPEN)}"]
    rules += ["call: " + " | ".join(f"call_{i}" for i in range(len(toolset.tools)))]
    end = json.dumps("}\n" + CLOSE)
    for i, tool in enumerate(toolset.tools):
        begin = json.dumps('\n{"name": ' + json.dumps(tool.name) + ', "arguments": ')
        schema = tool.schema if tool.strict else {"type": "object"}
        rules += [f"call_{i}: head {begin} args_{i} {end}", f"args_{i}: %json {json.dumps(schema)}"]
    return "\n".join(rules)
