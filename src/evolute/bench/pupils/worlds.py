"""Worlds by name: WORLDS[name] -> World."""

from __future__ import annotations

from collections.abc import Iterable

from evolute.bench.pupils.memory_world import memory, memory_phrases
from evolute.bench.pupils.repair_world import mend, repair, repair_phrases
from evolute.bench.pupils.search_world import read_page, search, search_phrases
from evolute.bench.pupils.sql_world import ask_for_any_word, sql, sql_phrases
from evolute.bench.pupils.world import World


def _phrases(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))


WORLDS = {
    "sql": World(sql, _phrases(sql_phrases()), (1, 3, 5, 5), ask_for_any_word),
    "memory": World(memory, _phrases(memory_phrases()), (4,)),
    "search": World(search, _phrases(search_phrases()), (4,), read_page),
    "repair": World(repair, _phrases(repair_phrases()), (5,), mend),
}
