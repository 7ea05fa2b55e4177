"""Questions to a database in words, each with a query that answers it.

    draw_question(source, domain, names, level) -> Question

Level 0: one table and a word. 1: one table and a filter. 2: aggregates, groups, orders. 3: both
tables, subqueries. The text says what comes back and, where that matters, in which order, so that
one result is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from evolute.envs.sql.domains import Domain, Names, Table


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    query: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question is drawn from."""

    source: random.Random
    domain: Domain
    names: Names

    @property
    def table(self) -> Table:
        return self.source.choice((self.domain.parent, self.domain.child))

    def number(self, table: Table) -> tuple[str, int]:
        """A column and a value near its middle."""
        column = self.source.choice(list(table.numbers))
        low, high = table.numbers[column]
        third = (high - low) // 3
        return column, self.source.randint(low + third, high - third)

    def kind(self, table: Table) -> tuple[str, str]:
        column = self.source.choice(list(table.kinds))
        return column, self.source.choice(table.kinds[column])

    def name(self, table: Table) -> str:
        is_parent = table is self.domain.parent
        return self.source.choice(self.names.parent if is_parent else self.names.child)


def draw_question(source: random.Random, domain: Domain, names: Names, level: int) -> Question:
    """A question of exactly that level."""
    text, query = source.choice(LEVELS[level])(Asked(source, domain, names))
    return Question(text, query)


# -- internals ---------------------------------------------------------------

Drawn = tuple[str, str]


def _of_kind(a: Asked) -> Drawn:
    t = a.table
    column, value = a.kind(t)
    return (
        f"How many {t.name} have the {column} {value}?",
        f"SELECT count(*) FROM {t.name} WHERE {column} = '{value}'",
    )


def _above(a: Asked) -> Drawn:
    t = a.table
    column, value = a.number(t)
    word, sign = a.source.choice((("above", ">"), ("below", "<")))
    return (
        f"How many {t.name} have a value of {column} {word} {value}?",
        f"SELECT count(*) FROM {t.name} WHERE {column} {sign} {value}",
    )


def _value_of(a: Asked) -> Drawn:
    t = a.table
    column = a.source.choice([*t.numbers, *t.kinds])
    name = a.name(t)
    return (
        f"What is the {column} of the {t.one} named {name}?",
        f"SELECT {column} FROM {t.name} WHERE name = '{name}'",
    )


def _names_of_kind(a: Asked) -> Drawn:
    t = a.table
    column, value = a.kind(t)
    return (
        f"What are the names of all {t.name} with the {column} {value}?",
        f"SELECT name FROM {t.name} WHERE {column} = '{value}'",
    )


def _aggregate(a: Asked) -> Drawn:
    t = a.table
    column, _ = a.number(t)
    kind, value = a.kind(t)
    word, function = a.source.choice(
        (("average", "avg"), ("total", "sum"), ("greatest", "max"), ("least", "min"))
    )
    return (
        f"What is the {word} {column} of the {t.name} with the {kind} {value}?",
        f"SELECT {function}({column}) FROM {t.name} WHERE {kind} = '{value}'",
    )


def _extreme(a: Asked) -> Drawn:
    t = a.table
    column, _ = a.number(t)
    word, order = a.source.choice((("greatest", "DESC"), ("least", "ASC")))
    return (
        f"What is the name of the {t.one} with the {word} {column}?",
        f"SELECT name FROM {t.name} ORDER BY {column} {order} LIMIT 1",
    )


def _group(a: Asked) -> Drawn:
    t = a.table
    kind, _ = a.kind(t)
    return (
        f"For each {kind} of the {t.name}, give the {kind} and how many {t.name} have it.",
        f"SELECT {kind}, count(*) FROM {t.name} GROUP BY {kind}",
    )


def _order(a: Asked) -> Drawn:
    t = a.table
    column, _ = a.number(t)
    count = a.source.randint(2, 4)
    word, order = a.source.choice((("greatest", "DESC"), ("least", "ASC")))
    return (
        f"Give the names of the {count} {t.name} with the {word} {column}, the {word} first.",
        f"SELECT name FROM {t.name} ORDER BY {column} {order} LIMIT {count}",
    )


def _average_of_group(a: Asked) -> Drawn:
    t = a.table
    kind, _ = a.kind(t)
    column, _ = a.number(t)
    return (
        f"For each {kind} of the {t.name}, give the {kind} and the average {column}.",
        f"SELECT {kind}, avg({column}) FROM {t.name} GROUP BY {kind}",
    )


def _children_of(a: Asked) -> Drawn:
    p, c, link = a.domain.parent, a.domain.child, a.domain.link
    name = a.name(p)
    return (
        f"What are the names of the {c.name} that belong to the {p.one} named {name}?",
        f"SELECT c.name FROM {c.name} c JOIN {p.name} p ON c.{link} = p.id WHERE p.name = '{name}'",
    )


def _count_children(a: Asked) -> Drawn:
    p, c, link = a.domain.parent, a.domain.child, a.domain.link
    kind, value = a.kind(p)
    return (
        f"How many {c.name} belong to {p.name} with the {kind} {value}?",
        f"SELECT count(*) FROM {c.name} c JOIN {p.name} p ON c.{link} = p.id "
        f"WHERE p.{kind} = '{value}'",
    )


def _many_children(a: Asked) -> Drawn:
    p, c, link = a.domain.parent, a.domain.child, a.domain.link
    count = a.source.randint(1, 3)
    return (
        f"What are the names of the {p.name} that have more than {count} {c.name}?",
        f"SELECT p.name FROM {p.name} p JOIN {c.name} c ON c.{link} = p.id "
        f"GROUP BY p.id HAVING count(*) > {count}",
    )


def _no_children(a: Asked) -> Drawn:
    p, c, link = a.domain.parent, a.domain.child, a.domain.link
    kind, value = a.kind(c)
    return (
        f"What are the names of the {p.name} that have no {c.name} with the {kind} {value}?",
        f"SELECT name FROM {p.name} WHERE id NOT IN "
        f"(SELECT {link} FROM {c.name} WHERE {kind} = '{value}')",
    )


def _above_average(a: Asked) -> Drawn:
    t = a.table
    column, _ = a.number(t)
    return (
        f"What are the names of the {t.name} whose {column} is above the average {column} of all "
        f"{t.name}?",
        f"SELECT name FROM {t.name} WHERE {column} > (SELECT avg({column}) FROM {t.name})",
    )


def _join_average(a: Asked) -> Drawn:
    p, c, link = a.domain.parent, a.domain.child, a.domain.link
    kind, _ = a.kind(p)
    column, _ = a.number(c)
    return (
        f"For each {kind} of the {p.name} that have {c.name}, give the {kind} and the total "
        f"{column} of their {c.name}.",
        f"SELECT p.{kind}, sum(c.{column}) FROM {p.name} p JOIN {c.name} c ON c.{link} = p.id "
        f"GROUP BY p.{kind}",
    )


LEVELS: dict[int, tuple[Callable[[Asked], Drawn], ...]] = {
    0: (_of_kind, _names_of_kind, _aggregate),
    1: (_of_kind, _above, _value_of, _names_of_kind),
    2: (_aggregate, _extreme, _group, _order, _average_of_group),
    3: (_children_of, _count_children, _many_children, _no_children, _above_average, _join_average),
}
