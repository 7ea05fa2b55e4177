"""What the parts of a body look like that are read by hand, for the OpenAPI document.

CHAT_MESSAGES, CHAT_TOOLS, CHAT_CHOICE     of chat completions
ITEMS, FUNCTIONS                           of responses
BLOCK_MESSAGES, SYSTEM, OWN_TOOLS, OWN_CHOICE     of Anthropic's messages
PLAIN_MESSAGES                             of /tokenize

Each is a list or object of plain dicts to Python; who checks them says more than a schema can.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

from evolute.server.bodies import Many

Schema = dict[str, Any]
Objects = Many[dict[str, Any]]


def _object(required: str, **properties: Any) -> Schema:
    """Nothing else may be in it; `required` names what must."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items: Any) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _any(*schemas: Any) -> Schema:
    return {"anyOf": list(schemas)}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _text_part(kind: str) -> Schema:
    return _object("type text", type=_one_of(kind), text=TEXT)


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NOTHING: Schema = {"type": "null"}
ANY_OBJECT: Schema = {"type": "object"}
NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"}
CONTENT = _any(TEXT, _list(_text_part("text")))

# -- OpenAI's ------------------------------------------------------------------------------

CALL = _object(
    "id type function",
    id=TEXT,
    type=_one_of("function"),
    function=_object("name arguments", name=NAME, arguments=TEXT),
)
FUNCTION = {"name": NAME, "description": TEXT, "parameters": ANY_OBJECT, "strict": FLAG}
CHAT_MESSAGES = Annotated[
    Objects,
    WithJsonSchema(
        _list(
            _any(
                _object(
                    "role content", role=_one_of("system", "developer", "user"), content=CONTENT
                ),
                _object(
                    "role",
                    role=_one_of("assistant"),
                    content=_any(CONTENT, NOTHING),
                    tool_calls=_list(CALL),
                ),
                _object(
                    "role content",
                    role=_one_of("tool"),
                    content=CONTENT,
                    tool_call_id=TEXT,
                    name=TEXT,
                ),
            )
        )
    ),
]
CHAT_TOOLS = Annotated[
    Objects,
    WithJsonSchema(
        _list(
            _object("type function", type=_one_of("function"), function=_object("name", **FUNCTION))
        )
    ),
]
WORDS = _one_of("none", "auto", "required")
CHAT_CHOICE = Annotated[
    str | dict[str, Any],
    WithJsonSchema(
        _any(
            WORDS,
            _object("type function", type=_one_of("function"), function=_object("name", name=NAME)),
        )
    ),
]
FLAT_CHOICE = Annotated[
    str | dict[str, Any],
    WithJsonSchema(_any(WORDS, _object("type name", type=_one_of("function"), name=NAME))),
]
FUNCTIONS = Annotated[
    Objects, WithJsonSchema(_list(_object("type name", type=_one_of("function"), **FUNCTION)))
]
ITEMS = Annotated[
    Objects,
    WithJsonSchema(
        _list(
            _any(
                _object(
                    "role content",
                    type=_one_of("message"),
                    role=_one_of("user", "system", "developer"),
                    content=_any(TEXT, _list(_text_part("input_text"))),
                ),
                _object(
                    "role content",
                    type=_one_of("message"),
                    role=_one_of("assistant"),
                    content=_any(TEXT, _list(_text_part("output_text"))),
                ),
                _object(
                    "type call_id name arguments",
                    type=_one_of("function_call"),
                    call_id=TEXT,
                    name=NAME,
                    arguments=TEXT,
                ),
                _object(
                    "type call_id output",
                    type=_one_of("function_call_output"),
                    call_id=TEXT,
                    output=_any(TEXT, _list(_text_part("input_text"))),
                ),
            )
        )
    ),
]

# -- Anthropic's ---------------------------------------------------------------------------

BLOCK = _text_part("text")
RESULT = _object(
    "type tool_use_id",
    type=_one_of("tool_result"),
    tool_use_id=TEXT,
    content=_any(TEXT, _list(BLOCK)),
    is_error=FLAG,
)
USE = _object("type id name input", type=_one_of("tool_use"), id=TEXT, name=NAME, input=ANY_OBJECT)
BLOCK_MESSAGES = Annotated[
    Objects,
    WithJsonSchema(
        _list(
            _any(
                _object(
                    "role content",
                    role=_one_of("user"),
                    content=_any(TEXT, _list(_any(BLOCK, RESULT))),
                ),
                _object(
                    "role content",
                    role=_one_of("assistant"),
                    content=_any(TEXT, _list(_any(BLOCK, USE))),
                ),
            )
        )
    ),
]
SYSTEM = Annotated[Objects, WithJsonSchema(_list(BLOCK))]
OWN_TOOLS = Annotated[
    Objects,
    WithJsonSchema(
        _list(
            _object(
                "name input_schema",
                type=_one_of("custom"),
                name=NAME,
                description=TEXT,
                input_schema=ANY_OBJECT,
                strict=FLAG,
            )
        )
    ),
]
OWN_CHOICE = Annotated[
    dict[str, Any],
    WithJsonSchema(
        _any(
            _object("type", type=_one_of("auto", "any"), disable_parallel_tool_use=FLAG),
            _object("type", type=_one_of("none")),
            _object("type name", type=_one_of("tool"), name=NAME, disable_parallel_tool_use=FLAG),
        )
    ),
]

# -- ours ----------------------------------------------------------------------------------

PLAIN_MESSAGES = Annotated[
    Objects,
    WithJsonSchema(
        _list(
            _object(
                "role content", role=_one_of("system", "user", "assistant", "tool"), content=TEXT
            )
        )
    ),
]
