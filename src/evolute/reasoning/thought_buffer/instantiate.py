"""How is a template filled for one problem?

    await Instantiator(...).fill(template, distilled, text) -> Instance

Whole code needs no call where all its slots are places of the problem; other slots are asked for
under a regex of their type, or chosen among the problem's own literals by log-probability. A
skeleton is completed by the model, steps and prompts are followed by it. Programs run in the
sandbox; what fails there comes back as `fault`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.envs.sandbox.contract import Sandbox, SandboxLimits, Script
from evolute.lang.backend import TextBackend
from evolute.reasoning.answers import code_of, marked_answer
from evolute.reasoning.asking import ask, is_honoured, log_likelihoods, prompt_of
from evolute.reasoning.baselines.pal import fault_of, output_of
from evolute.reasoning.thought_buffer.distill import Distilled, places
from evolute.reasoning.thought_buffer.template import ASKED, CHOSEN, Slot, ThoughtTemplate
from evolute.types import Message, SamplingParams

REGEX = {
    "bool": r"(True|False)",
    "int": r"-?[0-9]{1,18}",
    "float": r"-?[0-9]{1,18}(\.[0-9]{1,9})?",
    "str": r"[^\n]{1,200}",
    "list": r"\[[^\n]{0,400}\]",
}
COMPLETE = (
    "Solve the problem with a Python program that prints the answer and nothing else. Follow this "
    "sketch; where it has `...` write what is missing. Put the program in one ```python block."
)
FOLLOW = "Solve the problem by this method. End with one line of the form\nAnswer: ..."


@dataclass(frozen=True, slots=True)
class Instance:
    """One attempt. `source` is the program that ran, "" where none did; `values` its slots."""

    text: str
    source: str = ""
    fault: str = ""  # why there is no answer
    reply: str = ""  # what the model wrote
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return not self.fault


@dataclass(frozen=True, slots=True)
class Instantiator:
    """`model` fills and follows; `sandbox` is made when the first program runs."""

    model: TextBackend
    sandbox: Callable[[], Sandbox]
    sampling: SamplingParams
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    packages: tuple[str, ...] = ()

    async def fill(
        self,
        template: ThoughtTemplate,
        distilled: Distilled,
        text: str,
        *,
        seed: int = 0,
        failed: Instance | None = None,
    ) -> Instance:
        """`failed` is the attempt before, shown to a model that tries again. Raises BudgetSpent."""
        if template.kind == "code" and not template.is_skeleton:
            return await self._run_filled(template, distilled, text, seed)
        sampling = replace(self.sampling, seed=seed)
        reply = await ask(self.model, _messages(template, distilled, text, failed), sampling)
        if template.kind != "code":
            return Instance(marked_answer(reply) or reply.strip(), reply=reply)
        source = code_of(reply)
        if source is None:
            return Instance("", fault="There was no ```python block in it.", reply=reply)
        return replace(await self.run(source), reply=reply)

    async def run(self, source: str, values: Mapping[str, Any] | None = None) -> Instance:
        """The program behind one assignment a slot."""
        given = "".join(f"{name} = {value!r}\n" for name, value in (values or {}).items())
        script = Script(given + source, packages=self.packages)
        report = await self.sandbox().run(script, self.limits)
        output = output_of(report)
        fault = "" if output else fault_of(report)
        return Instance(output, source=source, fault=fault, values=dict(values or {}))

    # -- internals ---------------------------------------------------------------

    async def _run_filled(
        self, template: ThoughtTemplate, distilled: Distilled, text: str, seed: int
    ) -> Instance:
        known, values = places(distilled), dict[str, Any]()
        for slot in template.slots:
            if slot.how in known and _has_type(known[slot.how], slot.type):
                values[slot.name] = known[slot.how]
            elif slot.how == CHOSEN and self.model.capabilities.tokens:
                values[slot.name] = await self._choose(slot, known, text)
            elif slot.how in (ASKED, CHOSEN):
                values[slot.name] = await self._ask(slot, template, text, seed)
            else:
                return Instance("", fault=f"The problem has no {slot.how} for {slot.name}.")
            if values[slot.name] is None:
                return Instance("", fault=f"No value of {slot.name} could be read.")
        return await self.run(template.body, values)

    async def _ask(self, slot: Slot, template: ThoughtTemplate, text: str, seed: int) -> Any:
        """A value of the slot's type, None when the model wrote none."""
        said = f"{text}\n\nWhich value has {_words(slot)}? Write the value only."
        sampling = replace(self.sampling, max_new_tokens=64, seed=seed)
        if is_honoured(self.model, "regex"):
            sampling = replace(sampling, regex=REGEX[slot.type])
        return _read(
            await ask(self.model, [{"role": "user", "content": said}], sampling), slot.type
        )

    async def _choose(self, slot: Slot, known: Mapping[str, Any], text: str) -> Any:
        """The literal of the problem that the model finds most probable, per token."""
        literals = {str(v): v for v in known.values() if _has_type(v, slot.type)}
        literals.pop("", None)
        if len(literals) < 2:
            return next(iter(literals.values()), None)
        said = f"{text}\n\nWhich value has {_words(slot)}? Write the value only."
        prompt = await prompt_of(self.model, [{"role": "user", "content": said}])
        scores = await log_likelihoods(self.model, prompt, list(literals))
        means = [sum(some) / max(len(some), 1) for some in scores]
        return list(literals.values())[means.index(max(means))]


# -- internals ---------------------------------------------------------------


def _words(slot: Slot) -> str:
    return slot.name.replace("_", " ")


def _messages(
    template: ThoughtTemplate, distilled: Distilled, text: str, failed: Instance | None
) -> list[Message]:
    how = COMPLETE if template.kind == "code" else FOLLOW
    body = f"```python\n{template.body}\n```" if template.kind == "code" else template.body
    known = {k: v for k, v in {**distilled.named}.items() if v}
    facts = f"\n\nKnown: {json.dumps(known, ensure_ascii=False)}" if known else ""
    said = f"{how}\n\n{body}\n\nProblem:\n{text}{facts}"
    messages: list[Message] = [{"role": "user", "content": said}]
    if failed is not None:
        fault = failed.fault or f"Its answer {failed.text[:200]!r} is wrong."
        messages.append({"role": "assistant", "content": failed.reply or failed.text})
        messages.append({"role": "user", "content": f"That failed. {fault}\nTry again."})
    return messages


def _has_type(value: Any, name: str) -> bool:
    return type(value).__name__ == name or (name == "float" and type(value) is int)


def _read(text: str, name: str) -> Any:
    """A Python value of a type, None for what is none."""
    bare = text.strip()
    if name == "str":
        return bare or None
    if name == "bool":
        return {"true": True, "false": False}.get(bare.lower())
    try:
        value = json.loads(bare)
    except ValueError:
        return None
    return value if _has_type(value, name) else None
