"""The agent loop: one model call and one tool call a turn, until a tool takes the answer.

    Agent(setup, name, messages, tools).run() -> AgentEnd(stop, answer)

    prompt -> model -> a call that fits? --yes--> tool --> result --+--> next turn
       ^                    | no                   | raises, hangs  |
       |                    +----> guidance <------+                |
       +------------------------------------------------------------+

Every mistake of the model is told and the loop goes on. It ends by a tool's answer (FINISH), by the
caps (MAX_TURNS, CONTEXT), or by repetition (STUCK). Token in, token out: see history.py. (ReAct,
arXiv 2210.03629; the loop of SkyRL-Agent, arXiv 2511.16108.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from evolute.agents.calling import ToolFailed, call_tool
from evolute.agents.guidance import shortened, told, turns_left
from evolute.agents.history import History, form_of
from evolute.agents.metrics import REWRITES, STOPS
from evolute.agents.parsing import Call, Mistake, Slip, Turn, read_turn
from evolute.agents.setup import AgentEnd, Setup, Stop, only, sampling_of, seed_of
from evolute.agents.transitions import MAIN
from evolute.envs.step import read_metrics
from evolute.envs.tools import Tool, ToolContext, ToolResult
from evolute.lang.tools import toolset_of
from evolute.types import (
    EpisodeError,
    FinishReason,
    GenerateRequest,
    Message,
    Output,
    PromptTooLong,
    RequestError,
)

TENANT = "rollouts"
GO_ON = "Your history was replaced. Go on."


class Agent:
    """One agent with its own history. Implements `envs.tools.AgentContext` for its tools.

    Raises EpisodeError for tools that cannot be offered.
    """

    def __init__(
        self,
        setup: Setup,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        name: str = MAIN,
        depth: int = 0,
    ) -> None:
        self.setup, self.name, self.depth, self.offered = setup, name, depth, tuple(tools)
        self._tools = _by_name(tools)
        schemas = {each: tool.schema for each, tool in self._tools.items()}
        tokenizer = setup.backend.tokenizer
        self._form = form_of(tokenizer, setup.config.form)
        self._history = History(tokenizer, schemas, self._form, messages)
        self._schemas = schemas
        self._sampling = sampling_of(setup, self._form)
        self._turns = self._children = self._repeats = self._asked = 0
        self._last: tuple[str, str] | None = None  # call and result

    @property
    def messages(self) -> Sequence[Message]:
        return tuple(self._history.messages)

    def replace_history(self, messages: Sequence[Message]) -> None:
        """Raises EpisodeError for what no conversation can be."""
        self._history.replace(messages)
        REWRITES.inc()

    async def run(self) -> AgentEnd:
        """Raises RequestError when not even the first prompt can be served, and what the backend
        raises; everything else is the model's and goes on."""
        end = await self._run()
        STOPS.labels(end.stop.value).inc()
        return end

    async def delegate(self, task: str, tools: Sequence[Tool]) -> AgentEnd:
        """Run a sub-agent on a task of its own, recorded under its own name. Raises EpisodeError
        for a task that its context cannot hold."""
        self._children += 1
        child = Agent(
            self.setup,
            [{"role": "user", "content": task}],
            tools,
            name=f"{self.name}.{self._children}",
            depth=self.depth + 1,
        )
        return await child.run()

    # -- internals ---------------------------------------------------------------

    @property
    def _max_turns(self) -> int:
        config = self.setup.config
        return config.sub_turns if self.depth else config.max_turns

    async def _run(self) -> AgentEnd:
        if self._reminder():
            self._history.remind(self._reminder())
        while self._turns < self._max_turns:
            output = await self._ask()
            if output is None:
                return AgentEnd(Stop.CONTEXT)
            self._turns += 1
            is_cut = output.finish_reason is FinishReason.LENGTH
            turn = read_turn(output.text, self._schemas, self._form, is_cut=is_cut)
            if self._is_context_full(output) and isinstance(turn.action, Slip):
                return AgentEnd(Stop.CONTEXT)
            if self._is_answer(turn):
                return AgentEnd(Stop.FINISH, turn.said)
            result = await self._act(turn.action)
            if result.answer is not None:
                return AgentEnd(Stop.FINISH, result.answer)
            self._observe(turn.action, result)
            seen = self.messages[-1]["content"] if result.replaced else result.text
            if self._is_stuck(turn.action, output.text, seen):
                return AgentEnd(Stop.STUCK)
        return AgentEnd(Stop.MAX_TURNS)

    async def _ask(self) -> Output | None:
        """The model's next turn; None when the context has no room for one."""
        config = self.setup.config
        if config.thinking == "drop":
            self._history.drop_thoughts()
        prompt = self._prompt()
        size = config.max_new_tokens
        if config.max_context:
            size = min(size, config.max_context - len(prompt))
        if size < 1:
            self._no_room(len(prompt))
            return None
        seed = seed_of(self.setup, self.name, self._turns)
        sampling = replace(self._sampling, max_new_tokens=size, seed=seed)
        request = GenerateRequest(
            prompt,
            sampling,
            self.setup.adapter,
            tenant=TENANT,
            session=f"{self.setup.trajectory}/{self.name}",
            cache_salt=self.setup.cache_salt,
        )
        try:
            outputs = await self.setup.backend.agenerate(request)
        except PromptTooLong:
            self._no_room(len(prompt))
            return None
        output = only(outputs)
        self.setup.record.call(request, output, self.name)
        self._history.sampled(output.token_ids, output.text)
        self._asked = size
        return output

    def _prompt(self) -> tuple[int, ...]:
        try:
            return self._history.prompt()
        except RequestError as error:  # of the chat template; after a rewrite it is this episode's
            if not self._turns:
                raise
            text = f"the chat template refuses the history as it was rewritten: {error}"
            raise EpisodeError(text) from error

    def _no_room(self, size: int) -> None:
        """The talk has outgrown the context; a first prompt that does not fit is no talk."""
        if self._turns:
            return
        text = f"the first prompt of agent {self.name} has {size} tokens and leaves no room for an "
        text += (
            "answer within agent.max_context and the model's context; raise them, or shorten it."
        )
        raise EpisodeError(text) if self.depth else PromptTooLong(text)

    def _is_context_full(self, output: Output) -> bool:
        """Cut before its own limit, or by one that the context had made smaller."""
        if output.finish_reason is not FinishReason.LENGTH:
            return False
        return len(output.token_ids) < self._asked or self._asked < self.setup.config.max_new_tokens

    def _is_answer(self, turn: Turn) -> bool:
        return (
            self.setup.config.answer_without_call
            and isinstance(turn.action, Slip)
            and turn.action.mistake is Mistake.NO_CALL
            and bool(turn.said)
        )

    async def _act(self, action: Call | Slip) -> ToolResult:
        """The tool's result, or what the model is told of its mistake."""
        if isinstance(action, Call):
            tool = self._tools[action.name]
            limit_s = float(getattr(tool, "timeout_s", self.setup.config.tool_timeout_s))
            context = ToolContext(self, self._trajectory, limit_s)
            self.setup.record.used(action.name)
            try:
                return await call_tool(tool, action.name, action.arguments, context)
            except ToolFailed as failed:
                action = Slip(failed.mistake, str(failed), action.name)
        self.setup.record.mistook(action.mistake)
        hints = self.setup.config.hints
        return ToolResult(told(action, self._schemas, self._form, hints=hints))

    def _observe(self, action: Call | Slip, result: ToolResult) -> None:
        """Tell the model; with the turns that are left, when they are to be told."""
        reminder = self._reminder()
        tool = action.name if isinstance(action, Call) else action.tool
        for name, value in read_metrics(result.metrics).items():
            self.setup.record.measured(f"{tool}/{name}", value)
        if result.replaced:
            if self._history.messages[-1]["role"] == "assistant":
                self._history.observed(GO_ON)
            if reminder:
                self._history.remind(reminder)
            self.setup.record.told("(history replaced)", self.name)
            return
        text = shortened(result.text, self.setup.config.result_chars)
        if reminder:
            text = f"{text}\n\n{reminder}"
        self._history.observed(text, of_tool=tool)
        self.setup.record.told(text, self.name)

    def _reminder(self) -> str:
        left = self._max_turns - self._turns
        return turns_left(left) if 0 < left <= self.setup.config.remind_below else ""

    def _is_stuck(self, action: Call | Slip, said: str, result: str) -> bool:
        call = said
        if isinstance(action, Call):
            call = f"{action.name} {json.dumps(action.arguments, sort_keys=True)}"
        self._repeats = self._repeats + 1 if self._last == (call, result) else 1
        self._last = (call, result)
        limit = self.setup.config.stuck_after
        return limit > 0 and self._repeats >= limit

    @property
    def _trajectory(self) -> str:
        own = self.setup.trajectory
        return own if self.name == MAIN else f"{own}/{self.name}"


# -- internals ---------------------------------------------------------------


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    try:
        toolset_of([tool.schema for tool in tools])
    except RequestError as error:
        raise EpisodeError(f"the world's tools cannot be offered: {error}") from error
    if not tools:
        raise EpisodeError("the world offers no tool, so its episode could never end.")
    return {tool.schema["function"]["name"]: tool for tool in tools}
