"""What the databases are about: pairs of tables, the second pointing to the first.

    DOMAINS          name -> Domain
    script_of(...)   the SQL that makes a database with drawn rows
    domain.spelt(f)  the same, its words spelt another way (SPELLINGS)

Numbers of one column are all different, so that greatest, least and orders are never ambiguous.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from evolute.envs.madewords import made_word

Spelling = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Table:
    """`numbers` by column: lowest and highest; `kinds` by column: its words."""

    name: str
    one: str
    numbers: dict[str, tuple[int, int]]
    kinds: dict[str, tuple[str, ...]]

    def spelt(self, spell: Spelling) -> Table:
        return replace(self, kinds={c: tuple(map(spell, ws)) for c, ws in self.kinds.items()})


@dataclass(frozen=True, slots=True)
class Domain:
    parent: Table
    child: Table

    @property
    def link(self) -> str:
        return f"{self.parent.one}_id"

    def spelt(self, spell: Spelling) -> Domain:
        return Domain(self.parent.spelt(spell), self.child.spelt(spell))

    def schema(self, table: Table) -> str:
        columns = ["id INTEGER PRIMARY KEY", "name TEXT"]
        columns += [f"{column} INTEGER" for column in table.numbers]
        columns += [f"{column} TEXT" for column in table.kinds]
        if table is self.child:
            columns.append(f"{self.link} INTEGER REFERENCES {self.parent.name}(id)")
        return f"CREATE TABLE {table.name} ({', '.join(columns)})"


SPELLINGS: tuple[Spelling, ...] = ("{}".format, "#{}".format, "[{}]".format, "{}.".format)
COLOURS = ("red", "green", "blue", "white")
REGIONS = ("north", "south", "east", "west")
_T = partial(Table)
DOMAINS = {
    "music": Domain(
        _T("bands", "band", {"founded": (1950, 2020)}, {"country": ("France", "Spain", "Chile")}),
        _T("singers", "singer", {"age": (18, 80), "albums": (1, 60)},
           {"voice": ("alto", "bass", "tenor")}),
    ),
    "travel": Domain(
        _T("cities", "city", {"people": (10, 900)}, {"region": REGIONS}),
        _T("museums", "museum", {"opened": (1850, 2020), "visitors": (5, 900)},
           {"subject": ("art", "science", "history")}),
    ),
    "sport": Domain(
        _T("teams", "team", {"points": (0, 120)}, {"league": ("first", "second", "third")}),
        _T("players", "player", {"age": (16, 60), "goals": (0, 90)},
           {"position": ("forward", "keeper", "defender")}),
    ),
    "farming": Domain(
        _T("farms", "farm", {"hectares": (5, 900)}, {"crop": ("wheat", "maize", "barley")}),
        _T("tractors", "tractor", {"year": (1960, 2024), "power": (30, 400)},
           {"colour": COLOURS}),
    ),
    "reading": Domain(
        _T("libraries", "library", {"seats": (10, 600)}, {"district": REGIONS}),
        _T("books", "book", {"pages": (40, 1200), "copies": (1, 90)},
           {"genre": ("novel", "poetry", "travel")}),
    ),
    "shipping": Domain(
        _T("ports", "port", {"depth": (4, 90)}, {"coast": REGIONS}),
        _T("ships", "ship", {"tonnage": (100, 9000), "built": (1950, 2024)},
           {"flag": ("Malta", "Panama", "Norway")}),
    ),
    "schooling": Domain(
        _T("schools", "school", {"rooms": (6, 120)}, {"level": ("primary", "middle", "high")}),
        _T("pupils", "pupil", {"height": (100, 200), "score": (1, 100)},
           {"club": ("chess", "drama", "choir")}),
    ),
    "trade": Domain(
        _T("stores", "store", {"staff": (2, 200)}, {"town": ("Arden", "Brill", "Corse")}),
        _T("sales", "sale", {"amount": (10, 5000), "units": (1, 300)},
           {"season": ("spring", "summer", "autumn", "winter")}),
    ),
    "flying": Domain(
        _T("airlines", "airline", {"planes": (2, 500)}, {"alliance": ("Star", "Sky", "One")}),
        _T("flights", "flight", {"distance": (100, 9000), "seats": (40, 500)},
           {"meal": ("none", "snack", "dinner")}),
    ),
    "research": Domain(
        _T("labs", "lab", {"budget": (10, 900)}, {"field": ("physics", "biology", "law")}),
        _T("papers", "paper", {"citations": (0, 900), "length": (4, 90)},
           {"topic": ("cells", "waves", "courts")}),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a database's rows; a second filling keeps them."""

    parent: tuple[str, ...]
    child: tuple[str, ...]


def draw_names(source: random.Random, rows: int) -> Names:
    count = max(2, rows // 2) + rows
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[made_word(source, 2, 3)] = None
    names = tuple(drawn)
    return Names(names[:-rows], names[-rows:])


def script_of(domain: Domain, names: Names, source: random.Random) -> str:
    """Tables and rows. The last parent has no child."""
    parts = [domain.schema(domain.parent), domain.schema(domain.child)]
    parts += _inserts(domain.parent, names.parent, source, 0)
    parts += _inserts(domain.child, names.child, source, len(names.parent) - 1)
    return ";\n".join(parts) + ";\n"


# -- internals ---------------------------------------------------------------


def _inserts(
    table: Table, names: tuple[str, ...], source: random.Random, num_parents: int
) -> list[str]:
    numbers = [
        source.sample(range(low, high + 1), len(names)) for low, high in table.numbers.values()
    ]
    rows = []
    for k, name in enumerate(names):
        values = [str(k + 1), f"'{name}'", *(str(column[k]) for column in numbers)]
        values += [f"'{source.choice(kinds)}'" for kinds in table.kinds.values()]
        values += [str(source.randint(1, num_parents))] if num_parents else []
        rows.append(f"INSERT INTO {table.name} VALUES ({', '.join(values)})")
    return rows
