"""What the tests of agents share: calls as text, one trajectory played."""

import asyncio
import json

from evolute.agents import AgentConfig, AgentPlayer
from evolute.testing import ScriptedBackend, SumTask


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def function(name, **arguments):
    body = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in arguments.items())
    return f"<function={name}>\n{body}</function>"


class Played:
    """The rollout with all that was seen on the way."""

    def __init__(self, script, task=None, backend=None, **config):
        self.task = task or SumTask()
        self.problem = self.task.problems("train", 1)[0]
        self.backend = backend or ScriptedBackend(script, context=config.pop("context", 100_000))
        config = {"max_new_tokens": 400, **config}
        player = AgentPlayer(self.task, self.backend, AgentConfig(**config))
        self.rollout = asyncio.run(player.play(self.problem, group=2, index=1, seed=5))
        self.prompts = [request.prompt for request in self.backend.requests]

    @property
    def world(self):
        return self.task.worlds[-1]

    @property
    def stop(self):
        return self.rollout.metadata["stop"]

    def told(self, turn):
        """What the model read before its turn, from 0, that it had not read before."""
        tokenizer = self.backend.tokenizer
        return tokenizer.decode(self.prompts[turn], skip_special_tokens=False)

    def whole(self):
        return [(*s.prompt_ids, *s.response_ids) for s in self.rollout.samples]


def finish(answer="no"):
    return call("finish", answer=answer)
