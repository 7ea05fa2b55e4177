"""Where does reasoning end?

split(text, model_type) -> (what was thought, what was answered)
MODELS                     marks by the name of a family, as SGLang's reasoning parsers have it
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    begin: str
    end: str
    begins_inside: bool = False  # the chat template wrote `begin` already


THINK = Marks("<think>", "</think>")
MODELS = {
    "deepseek-r1": Marks("<think>", "</think>", begins_inside=True),
    "deepseek-v3": THINK,
    "glm45": THINK,
    "kimi": Marks("◁think▷", "◁/think▷"),
    "qwen3": THINK,
    "qwen3-thinking": Marks("<think>", "</think>", begins_inside=True),
}


def split(text: str, model_type: str | None = None) -> tuple[str, str]:
    """Both stripped of white space at their edges when there was a thought, else ("", text).

    A thought that was cut off has no answer. Without `model_type` a text that has only the end
    mark began inside. Raises ValueError for a family that is not known.
    """
    marks = _marks(model_type)
    head, found, rest = text.partition(marks.begin)
    if found and not head.strip():
        inside = rest
    elif marks.begins_inside or (model_type is None and marks.end in text and not found):
        inside = text
    else:
        return "", text
    thought, _, answer = inside.partition(marks.end)
    return thought.strip(), answer.strip()


# -- internals ---------------------------------------------------------------


def _marks(model_type: str | None) -> Marks:
    if model_type is None:
        return THINK
    name = model_type.lower()
    if name not in MODELS:
        raise ValueError(
            f"how {model_type!r} marks its reasoning is not known; use {', '.join(MODELS)}, or "
            "none for <think>."
        )
    return MODELS[name]
