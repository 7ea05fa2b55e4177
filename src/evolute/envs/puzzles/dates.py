"""Dates: which day is so many days, weeks or months before or after another one?

    dates("dates?form=us")         answers as MM/DD/YYYY; form=iso: YYYY-MM-DD

Leap years and ends of months are drawn more often than chance would. A month later than January 31
is the last day of February: questions of months avoid days above 28.
"""

from __future__ import annotations

import random
import re
from datetime import date, timedelta
from functools import partial

from evolute.envs.puzzles.task import PuzzleTask, choice, read_options

FORMS = {"us": "%m/%d/%Y", "iso": "%Y-%m-%d"}
SHOWN = {"us": "MM/DD/YYYY", "iso": "YYYY-MM-DD"}
PATTERNS = {
    "us": re.compile(r"\b\d{1,2}/\d{1,2}/\d{4}\b"),
    "iso": re.compile(r"\b\d{4}-\d\d-\d\d\b"),
}
STEPS = {"day": 400, "week": 60, "month": 30}  # unit -> the greatest step
OPENINGS = ("Today is {}.", "It is {} today.", "The contract was signed on {}.")


def dates(name: str) -> PuzzleTask:
    """`dates?form=us`: the day before or after a date."""
    form = choice("dates", read_options(name, {"form": "us"}), "form", tuple(FORMS))
    return PuzzleTask(name, partial(_draw, form), partial(_grade, form), max_new_tokens=16)


# -- internals ---------------------------------------------------------------


def _draw(form: str, source: random.Random) -> tuple[str, str]:
    start = _day(source)
    unit = source.choice(list(STEPS))
    count = source.randint(1, STEPS[unit])
    is_later = source.random() < 0.5
    if unit == "month":
        start = start.replace(day=min(start.day, 28))
        end = _months_after(start, count if is_later else -count)
    else:
        days = count * (7 if unit == "week" else 1)
        end = start + timedelta(days if is_later else -days)
    opening = source.choice(OPENINGS).format(start.strftime(FORMS[form]))
    step = f"{count} {unit}{'' if count == 1 else 's'} {'later' if is_later else 'earlier'}"
    question = f"{opening} Which date is {step}? Answer with the date only, as {SHOWN[form]}."
    return question, end.strftime(FORMS[form])


def _day(source: random.Random) -> date:
    year = source.randint(1952, 2048)
    if source.random() < 0.3:
        return date(year, 3, 1) - timedelta(source.randint(0, 2))  # around February's end
    return date(year, 1, 1) + timedelta(source.randint(0, 364))


def _months_after(start: date, count: int) -> date:
    month = start.year * 12 + start.month - 1 + count
    return start.replace(year=month // 12, month=month % 12 + 1)


def _grade(form: str, question: str, gold: str, answer: str) -> bool:
    found = PATTERNS[form].findall(answer)
    return bool(found) and [int(n) for n in re.findall(r"\d+", found[-1])] == [
        int(n) for n in re.findall(r"\d+", gold)
    ]
