"""What is a problem, abstractly?

    extract(text) -> Distilled                        by rules; no model
    await distill(text, backend) -> Distilled         by a model under a JSON schema, rules below it
    places(distilled) -> {how: value}             every value that a slot may take

The paper's distiller asks a model for variables, objective, rules, a general form of the problem
and the answer's form. A small model cannot, so rules find the literals (numbers, dates, lists, rows
of a table, quoted texts, a FEN, an SVG path, words that choose between opposites) and the general
form is the text with its literals masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.lang.backend import TextBackend
from evolute.reasoning.asking import ask_json
from evolute.reasoning.thought_buffer.template import CATEGORIES
from evolute.types import SamplingParams

OPERAND = r"-?(?:\(\s*)*-?\d+(?:\.\d+)?(?!\w)(?:\s*\))*"  # 5x is none
LITERALS = (  # name, mask, pattern; what an earlier one took is not seen by later ones
    (
        "positions",
        "POSITION",
        re.compile(r"[1-8pnbrqkPNBRQK]+(?:/[1-8pnbrqkPNBRQK]+){7} [wb] \S+ \S+ \d+ \d+"),
    ),
    ("paths", "PATH", re.compile(r'\bd="([^"]+)"')),
    ("dates", "DATE", re.compile(r"\b\d{1,2}/\d{1,2}/\d{4}\b|\b\d{4}-\d\d-\d\d\b")),
    ("quoted", "TEXT", re.compile(r'"([^"\n]{1,400})"')),
    ("expressions", "EXPRESSION", re.compile(rf"{OPERAND}(?:\s*[-+*/]\s*{OPERAND})+")),
)
SPOKEN = {
    "POSITION": "a position",
    "PATH": "a path",
    "DATE": "a date",
    "TEXT": "a text",
    "EXPRESSION": "an expression",
    "LIST": "a list",
    "ROW": "a row",
    "TABLE": "a table",
    "NUMBER": "a number",
    "NUMBERS": "numbers",
}
MASK = re.compile(rf"\b({'|'.join(SPOKEN)})\b")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
ITEM = r"(?:[^\s:,?!]+ ){0,2}[^\s:,?!]*[^\s:,?!.]"  # up to three words: more is a sentence
ITEMS = re.compile(rf"(?<=: )({ITEM}(?:, {ITEM})+)(?=\.?\s*$|\. )", re.MULTILINE)
OPPOSITES = (
    *("ascending", "descending", "later", "earlier", "before", "after", "greatest", "least"),
    *("largest", "smallest", "total", "above", "below", "first", "last", "day", "week", "month"),
    *("year", "yes", "no", "white", "black", "odd", "even", "product", "sum", "difference"),
)
KEYWORD = re.compile(rf"\b({'|'.join(OPPOSITES)})s?\b", re.IGNORECASE)
SENTENCE = re.compile(r"[^.?!\n]+[.?!]?")
HINTS = {  # category -> words that speak for it; the first with the most wins
    "programming": ("code", "program", "function", "python", "algorithm", "sort", "svg"),
    "mathematics": ("number", "sum", "calculate", "arithmetic", "total", "how many", "expression"),
    "scheduling": ("schedule", "date", "days", "week", "month", "calendar", "meeting", "move"),
    "creative language": ("write a", "poem", "sonnet", "story", "rhyme"),
    "text comprehension": ("table", "passage", "according", "read", "data"),
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "variables": {
            "type": "array",
            "maxItems": 12,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                "required": ["name", "value"],
                "additionalProperties": False,
            },
        },
        "objective": {"type": "string", "maxLength": 300},
        "rules": {"type": "string", "maxLength": 300},
        "meta_problem": {"type": "string", "maxLength": 600},
        "answer_form": {"type": "string", "maxLength": 120},
        "category": {"enum": list(CATEGORIES)},
    },
    "required": ["variables", "objective", "rules", "meta_problem", "answer_form", "category"],
    "additionalProperties": False,
}
ASK = (
    "Do not solve the problem below. Say what it is: its variables with their values, its "
    "objective, the rules that hold, the general problem that it is an example of (without its "
    "values), the form of the answer, and its category.\n\nProblem:\n"
)


@dataclass(frozen=True, slots=True)
class Distilled:
    """`query` is what retrieval compares; `variables` are the literals of the text, by kind."""

    variables: Mapping[str, Any]
    objective: str
    rules: str
    meta_problem: str
    answer_form: str
    category: str
    named: Mapping[str, str] = field(default_factory=dict)  # a model's own names, values as text

    @property
    def query(self) -> str:
        return spoken(f"{self.meta_problem}\n{self.objective}".strip())


def spoken(text: str) -> str:
    """Masks as words: encoders know "a number" better than NUMBER."""
    return MASK.sub(lambda found: SPOKEN[found[1]], text)


def extract(text: str) -> Distilled:
    """By rules. Total: any text has a distilled form."""
    variables, masked = _literals(text)
    sentences = [s.strip() for s in SENTENCE.findall(" ".join(masked.split())) if s.strip()]
    asked = [s for s in sentences if s.endswith("?")]
    forms = [s for s in sentences if re.match(r"(?i)answer\b|your output", s)]
    rules = [s for s in sentences if re.search(r"(?i)\b(each|exactly|must|only|at most)\b", s)]
    plain = [s for s in sentences if s not in forms]
    objective = (asked or plain[-1:] or [""])[-1]
    return Distilled(
        variables,
        objective,
        " ".join(rules),
        " ".join(plain),
        " ".join(forms),
        _category(masked),
    )


async def distill(text: str, backend: TextBackend, sampling: SamplingParams) -> Distilled:
    """By one call; literals still come from the rules. An answer that is no such object gives the
    rules' own form. Raises BudgetSpent and the backend's errors."""
    ruled = extract(text)
    told = await ask_json(backend, [{"role": "user", "content": ASK + text}], SCHEMA, sampling)
    if told is None:
        return ruled
    fields = ("objective", "rules", "meta_problem", "answer_form")
    said = {name: str(told[name]) for name in fields if str(told.get(name, "")).strip()}
    if told.get("category") in CATEGORIES:
        said["category"] = str(told["category"])
    pairs = [v for v in told.get("variables", ()) if isinstance(v, Mapping)]
    named = {str(v.get("name")): str(v.get("value")) for v in pairs}
    return replace(ruled, named=named, **said)  # type: ignore[arg-type]


def places(distilled: Distilled) -> dict[str, Any]:
    """Every value that a slot may take, by how it is found. In the order of preference: single
    values, whole lists, parts of lists, truth values of words."""
    found: dict[str, Any] = {}
    for name, value in distilled.variables.items():
        if isinstance(value, list):
            found |= {f"{name}[{k}]": item for k, item in enumerate(value[:8])}
            found |= {f"{name}[{k}]": value[k] for k in range(-1, -min(len(value), 4) - 1, -1)}
        else:
            found[name] = value
    for name, value in distilled.variables.items():
        if isinstance(value, list):
            found[name] = value
            found |= {f"{name}[:-1]": value[:-1], f"{name}[1:]": value[1:]}
    said = distilled.variables.get("keywords", [])
    found |= {f"has({word})": word in said for word in OPPOSITES}
    return found | {
        f"keywords[{k}]=={word}": said[k] == word
        for k in range(-2, min(len(said), 6))
        if -k <= len(said)
        for word in OPPOSITES
    }


# -- internals ---------------------------------------------------------------


def _literals(text: str) -> tuple[dict[str, Any], str]:
    """Variables by kind, and the text with each literal masked."""
    variables: dict[str, Any] = {"text": text}
    masked = text
    rows = list(_rows(text))
    if rows:
        variables["rows"] = [cells for _, cells in rows]
        for line, _ in rows:
            masked = masked.replace(line, "ROW", 1)
        masked = re.sub(r"ROW(?:\s+ROW)+", "TABLE", masked)
    for name, mask, pattern in LITERALS:
        found = [m[1] if pattern.groups else m[0] for m in pattern.finditer(masked)]
        if found:
            variables[name] = [value.strip() for value in found]
            masked = pattern.sub(mask, masked)
    lists = [[item.strip() for item in m[1].split(",")] for m in ITEMS.finditer(masked)]
    if lists:
        variables["items"] = lists[-1]
        variables |= {"lists": lists} if len(lists) > 1 else {}
        masked = ITEMS.sub("LIST", masked)
    variables["numbers"] = [_number(m[0]) for m in NUMBER.finditer(masked)]
    masked = re.sub(r"NUMBER(?:, NUMBER)+", "NUMBERS", NUMBER.sub("NUMBER", masked))
    variables["keywords"] = [m[1].lower() for m in KEYWORD.finditer(masked)]
    names = re.findall(r"\bnamed (\w+)", masked)
    variables["names"] = names
    return variables, masked


def _rows(text: str) -> Iterator[tuple[str, list[str]]]:
    """Lines that are cells of a table: as many as the first such line has, at least two such."""
    split = [(line, [c.strip() for c in line.split(",")]) for line in text.splitlines()]
    lines = [(line, cells) for line, cells in split if _is_row(cells)]
    width = len(lines[0][1]) if lines else 0
    found = [(line, cells) for line, cells in lines if len(cells) == width]
    yield from found if len(found) > 1 else ()


def _is_row(cells: list[str]) -> bool:
    return len(cells) > 1 and all(0 < len(cell) <= 20 and ":" not in cell for cell in cells)


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _category(text: str) -> str:
    lower = text.lower()
    counts = {name: sum(word in lower for word in words) for name, words in HINTS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "common sense"
