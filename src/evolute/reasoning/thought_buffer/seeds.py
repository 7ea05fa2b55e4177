"""What does a buffer begin with?

    COARSE                    three general templates for problems that nothing stored is like
    seed_templates(kind)      "skeletons": the shape of solutions, with gaps; "programs": whole ones

Whole programs make retrieval and slots the only question: their accuracy without any model is the
ceiling that reports print beside a run which had them.
"""

from __future__ import annotations

from collections.abc import Mapping

from evolute.reasoning.thought_buffer.distill import spoken
from evolute.reasoning.thought_buffer.programs import PROGRAMS
from evolute.reasoning.thought_buffer.template import Slot, ThoughtTemplate

COARSE: Mapping[str, ThoughtTemplate] = {
    "code": ThoughtTemplate(
        "programming",
        "any problem that a program can compute",
        "code",
        "# the problem's values\n...\n# compute the answer\n...\n# print it, and nothing else\n...",
    ),
    "procedure": ThoughtTemplate(
        "text comprehension",
        "any problem about a text",
        "procedure",
        "1. List what is given.\n2. Find what is asked.\n3. Work it out from what is given.\n"
        "4. Check the form of the answer.",
    ),
    "prompt": ThoughtTemplate(
        "common sense",
        "any question",
        "prompt",
        "Recall what is known about the matter, exclude what cannot be, and answer.",
    ),
}
KIND_BY_CATEGORY = {
    "mathematics": "code",
    "programming": "code",
    "text comprehension": "code",
    "creative language": "procedure",
    "common sense": "prompt",
    "scheduling": "code",
}


def coarse_template(category: str, *, can_run: bool = True) -> ThoughtTemplate:
    """The general template of a category: what is computed goes by a program.

    The paper takes prompts for scheduling and steps for texts; where the answer of such a problem
    can be computed (dates, tables), a program is what can be kept and checked.
    """
    return COARSE[KIND_BY_CATEGORY[category] if can_run else "procedure"]


def seed_templates(kind: str) -> list[ThoughtTemplate]:
    """Raises KeyError for an unknown kind; "none" gives none."""
    if kind == "none":
        return []
    place = {"skeletons": 1, "programs": 2}[kind]
    return [
        ThoughtTemplate(
            seed.category,
            spoken(seed.description),
            "code",
            (seed.skeleton, seed.program)[place - 1],
            tuple(Slot(*slot) for slot in seed.slots) if place == 2 else (),
            provenance={"source": f"seed {kind}"},
        )
        for seed in PROGRAMS
    ]
