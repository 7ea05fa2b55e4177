"""How are tools offered to a model of tokens, and how are its calls read?

    calling = Calling.of(request, tokenizer)     None: the request has no tools
    calling.sampling                             bound, where calls are demanded or strict
    calling.shown(delta)                         a piece of a stream without its calls
    calling.reply(reply)                         texts without their calls, and the calls

The chat template tells the model of the tools when the prompt is rendered
(`interpreter/prompts.py`). The form of the calls is the template's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.lang.backend import Reply, TextRequest
from evolute.lang.tools import (
    Parser,
    Text,
    ToolFormat,
    Toolset,
    constraint,
    format_of,
    hides_tags,
    parser,
    read_calls,
    toolset_of,
)
from evolute.types import Delta, NotSupported, SamplingParams

OTHER_GRAMMARS = ("regex", "lark", "ebnf")


@dataclass(slots=True)
class Calling:
    """Of one request."""

    request: TextRequest
    toolset: Toolset
    format: ToolFormat
    has_special_tags: bool = False  # see `hides_tags`
    _parsers: dict[int, Parser] = field(default_factory=dict)

    @classmethod
    def of(cls, request: TextRequest, tokenizer: Any) -> Calling | None:
        """Raises BadTools for tools and choices that cannot be."""
        if not request.tools:
            return None
        toolset, format = toolset_of(request.tools, request.tool_choice), format_of(tokenizer)
        return cls(request, toolset, format, hides_tags(tokenizer, format))

    @property
    def sampling(self) -> SamplingParams:
        """Raises NotSupported for a grammar that says nothing of calls."""
        sampling = self.request.sampling
        if not self.toolset.offered:
            return sampling
        for name in OTHER_GRAMMARS:
            if getattr(sampling, name):
                raise NotSupported(f"{name} excludes tools; leave one of them out.")
        grammar: Mapping[str, Any] = constraint(
            self.toolset,
            self.format,
            schema=sampling.json_schema,
            field="json_schema",
            has_special_tags=self.has_special_tags,
        )
        shows = sampling.skip_special_tokens and not self.has_special_tags
        plain = replace(sampling, json_schema=None, skip_special_tokens=shows)
        return replace(plain, **grammar)

    def shown(self, delta: Delta) -> Delta:
        """Pieces come in order; text is held back as long as it may become a call."""
        reader = self._parsers.setdefault(delta.index, parser(self.toolset, self.format))
        events = reader.push(delta.text)
        if delta.output is not None:
            events = [*events, *reader.finish()]
        return replace(delta, text="".join(e.text for e in events if isinstance(e, Text)))

    def reply(self, reply: Reply) -> Reply:
        request = self.request
        read = [
            read_calls(output.text, request.tools, self.format, request.tool_choice)
            for output in reply.outputs
        ]
        outputs = tuple(replace(o, text=text) for o, (text, _) in zip(reply.outputs, read))
        return replace(reply, outputs=outputs, tool_calls=tuple(calls for _, calls in read))
