"""Our reading of JSON schemas against the `jsonschema` package, on random schemas and values."""

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from evolute.agents.arguments import complaint, read_text

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.sampled_from(["", "a", "ab"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
SCALAR_RULES = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "minimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 2),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(0, 2),
        "minItems": st.integers(0, 2),
        "maxItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "pattern": st.sampled_from(["^a", "b$"]),
        "required": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
    },
)


def combined(inner):
    schemas = inner | st.booleans()
    names = st.dictionaries(st.sampled_from(["a", "b"]), schemas, max_size=2)
    more = st.fixed_dictionaries(
        {},
        optional={
            "properties": names,
            "additionalProperties": schemas,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "c"]), schemas, max_size=1),
            "items": schemas,
            "prefixItems": st.lists(schemas, min_size=1, max_size=2),
            "anyOf": st.lists(schemas, min_size=1, max_size=2),
            "oneOf": st.lists(schemas, min_size=1, max_size=2),
            "allOf": st.lists(schemas, min_size=1, max_size=2),
            "not": schemas,
        },
    )
    return st.builds(lambda one, other: {**one, **other}, inner, more)


SCHEMAS = st.recursive(SCALAR_RULES, combined, max_leaves=5)


@given(SCHEMAS, VALUES)
def test_what_fits_is_what_jsonschema_says(schema, value):
    fits = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (complaint(value, schema) is None) == fits


@given(VALUES)
def test_references_point_into_the_schema(value):
    schema = {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}, "type": "array"}
    fits = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (complaint(value, schema) is None) == fits


@given(SCHEMAS, st.sampled_from(["3", " 3 ", "a", "[1]", '{"a": 1}', "true", "null", "", '"a"']))
def test_a_bare_text_becomes_a_value_that_fits_where_one_does(schema, text):
    value = read_text(text, schema)
    if complaint(text, schema) is None:
        assert value == text
    elif complaint(value, schema) is not None:
        assert isinstance(value, str) or value is not text
