"""Seed thoughts by family: the sketch of a solution, and a whole program with slots.

The sketches name the method and leave the work open. None has seen a problem of a benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seed:
    """`slots` are names of the program, with type and place."""

    family: str
    category: str
    description: str
    slots: tuple[tuple[str, str, str], ...]
    skeleton: str
    program: str


PROGRAMS = (
    Seed(
        "game-of-24",
        "mathematics",
        "Use the NUMBERS with +, -, *, / and brackets to make NUMBER. Use each "
        "number exactly once. Find an expression that reaches a target number.",
        (
            ("numbers", "list", "numbers[:-1]"),
            ("target", "int", "numbers[-1]"),
        ),
        """\
numbers = ...
target = ...
# keep (value, text) for each number; join any two by + - * / until one is left
def search(terms):
    ...
# print the text of the first that equals the target
...
""",
        """\
from fractions import Fraction
def search(terms):
    if len(terms) == 1:
        return terms[0][1] if terms[0][0] == target else None
    for i in range(len(terms)):
        for j in range(len(terms)):
            if i == j:
                continue
            (a, x), (b, y) = terms[i], terms[j]
            rest = [t for k, t in enumerate(terms) if k not in (i, j)]
            joined = [(a + b, f'({x} + {y})'), (a - b, f'({x} - {y})')]
            joined.append((a * b, f'({x} * {y})'))
            if b:
                joined.append((a / b, f'({x} / {y})'))
            for term in joined:
                found = search(rest + [term])
                if found:
                    return found
print(search([(Fraction(n), str(n)) for n in numbers]))
""",
    ),
    Seed(
        "word-sorting",
        "programming",
        "Your task is to sort words in ascending or descending order using "
        "ASCII/Unicode ordering. Now, sort these words in order and return them "
        "as a comma-separated list: LIST",
        (
            ("words", "list", "items"),
            ("text", "str", "text"),
        ),
        """\
words = ...
# compare as ASCII; say in which direction
...
# print joined by ', '
...
""",
        """\
import re
falls = re.search(r'sort these words in descending', text) is not None
print(', '.join(sorted(words, reverse=falls)))
""",
    ),
    Seed(
        "arithmetic",
        "mathematics",
        "Calculate EXPRESSION. State the final answer to the following arithmetic problem.",
        (("expression", "str", "expressions[-1]"),),
        """\
expression = ...
# brackets first, then * and /, then + and -
...
# print the number
...
""",
        """\
import ast, operator
from fractions import Fraction
signs = {ast.Add: operator.add, ast.Sub: operator.sub}
signs |= {ast.Mult: operator.mul, ast.Div: operator.truediv}
def value(node):
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp):
        return -value(node.operand)
    return signs[type(node.op)](value(node.left), value(node.right))
print(value(ast.parse(expression.strip(), mode='eval').body))
""",
    ),
    Seed(
        "dates",
        "scheduling",
        "Today is DATE. Which date is NUMBER days, weeks or months later or earlier?",
        (
            ("start", "str", "dates[0]"),
            ("count", "int", "numbers[0]"),
            ("text", "str", "text"),
        ),
        """\
start = ...
count = ...
# days, weeks or months; later or earlier
...
# print in the form asked for
...
""",
        """\
from datetime import datetime, timedelta
form = '%m/%d/%Y' if '/' in start else '%Y-%m-%d'
day = datetime.strptime(start, form).date()
count = count if 'later' in text else -count
if ' month' in text:
    month = day.year * 12 + day.month - 1 + count
    day = day.replace(year=month // 12, month=month % 12 + 1)
else:
    day += timedelta(days=count * (7 if ' week' in text else 1))
print(day.strftime(form))
""",
    ),
    Seed(
        "checkmate-in-one",
        "scheduling",
        "Position of a chess game (FEN): POSITION. White or Black is to move "
        "and can mate in one move. Which move mates?",
        (
            ("fen", "str", "positions[0]"),
            ("text", "str", "text"),
        ),
        """\
import chess
board = chess.Board(...)
# try each legal move; the one after which it is mate
...
""",
        """\
import chess
board = chess.Board(fen)
for move in list(board.legal_moves):
    said = move.uci() if 'UCI' in text else board.san(move)
    board.push(move)
    if board.is_checkmate():
        print(said)
        break
    board.pop()
""",
    ),
    Seed(
        "shapes",
        "programming",
        "Which shape does this SVG path draw? <path PATH/> It is one of a list of names.",
        (("path", "str", "paths[0]"),),
        """\
path = ...
# arcs make circles and sectors; else count the lines, and compare their lengths
...
""",
        r"""import math, re
arcs, lines = path.count('A'), path.count('L')
points = [tuple(map(float, p.split(','))) for p in re.findall(r'[ML] (\S+)', path)]
corners = [p for k, p in enumerate(points) if p not in points[:k]]
if arcs:
    name = 'sector' if lines else 'circle'
elif lines == 4:
    sides = [math.dist(corners[k], corners[k - 1]) for k in range(4)]
    name = 'rectangle' if abs(sides[0] - sides[2]) < 0.01 * sum(sides) else 'kite'
else:
    names = {1: 'line', 3: 'triangle', 5: 'pentagon', 6: 'hexagon'}
    name = (names | {7: 'heptagon', 8: 'octagon'})[lines]
print(name)
""",
    ),
    Seed(
        "table-questions",
        "text comprehension",
        "A table of data: TABLE. We then add or delete one. Which has the "
        "greatest or least of a column? What is the total? How many have above "
        "NUMBER?",
        (
            ("rows", "list", "rows"),
            ("text", "str", "text"),
        ),
        """\
rows = ...
# add or delete the row that the text names; find the column
...
# greatest, least, total, or how many
...
""",
        r"""import re
head, data = rows[0], rows[1:]
gone = re.search(r'delete the \w+ named (\w+)', text)
if gone:
    data = [row for row in data if row[0] != gone[1]]
asked = text.strip().splitlines()[-1]
column = next(k for k, name in enumerate(head) if k and name in asked)
values = [int(row[column]) for row in data]
if 'total' in asked:
    print(sum(values))
elif 'above' in asked:
    print(sum(v > int(re.search(r'above (-?\d+)', asked)[1]) for v in values))
else:
    best = (max if 'greatest' in asked else min)(values)
    print(data[values.index(best)][0])
""",
    ),
)
