"""Squares in four qualities: a problem, a model that writes them, and a sandbox for them.

RIGHT passes everything, TRAP and TWIN pass the public tests and are wrong, WRONG and CRASH fail
them, FIXED is wrong until it is repaired once, LATE until it is repaired twice.
"""

import io
import json
import re

from evolute.envs.code.problem import CodeProblem, Test, packed
from evolute.envs.sandbox.contract import Ending, RunReport, SandboxFeatures
from evolute.envs.sandbox.values import decode, encode
from evolute.lang.account import Spent
from evolute.reasoning.method import Roles, seed_of
from evolute.testing import ScriptedTextBackend
from evolute.types import Problem

BODIES = {
    "RIGHT": "x * x",
    "TRAP": "abs(x) ** 3",
    "TWIN": "abs(x) ** 3 + 0",
    "WRONG": "x + 5",
    "CRASH": "1 // 0",
}
PUBLIC = (Test((0,), 0), Test((1,), 1))
REPAIRS = {"FIXED": 1, "LATE": 2}


def program(quality):
    return f"def f(x):\n    return {BODIES[quality]}\n"


def problem(name, public=PUBLIC):
    code = CodeProblem(name, f"Problem {name}: square x.", "function", "f", "", tuple(public))
    return Problem(name, ({"role": "user", "content": code.statement},), "", {"code": packed(code)})


def quality_of(label, turn):
    """What a thread with this label writes in a turn."""
    if label in REPAIRS:
        return "RIGHT" if turn >= REPAIRS[label] else "WRONG"
    return label


def model(table, judge="right"):
    """Writes what the table says of (problem, sample), proposes inputs, and judges."""
    answers = {
        seed_of(name, 0, sample, turn): f"Here:\n```python\n{program(quality_of(label, turn))}```\n"
        for name, labels in table.items()
        for sample, label in enumerate(labels)
        for turn in range(6)
    }

    def answer(request):
        text = request.prompt.text
        if request.sampling.seed in answers:
            return answers[request.sampling.seed]
        if "Which" in text:
            return verdict(text, judge)
        if "Write 10 tests" in text:
            return "((3,), 9)\n((2,), 4)\n"
        return "(3,)\n(2,)\n"

    return ScriptedTextBackend(answer)


def verdict(text, judge):
    """As a judge who knows squares, one who always says A, or one who talks."""
    if judge in ("A", "B", "tie"):
        return f"I am sure.\n{judge}"
    if judge == "noise":
        return "no idea at all"
    found = re.search(r"on the input (-?\d+)\.\nA gave: (.*)\nB gave: (.*)\n", text)
    if found is None:
        return "tie"
    wanted = str(int(found[1]) ** 2)
    word = "A" if found[2] == wanted else "B" if found[3] == wanted else "tie"
    if judge == "wrong":
        word = {"A": "B", "B": "A"}.get(word, word)
    return f"Thinking.\n{word}"


class Weighing(ScriptedTextBackend):
    """Writes as `model` does; each token of a right square, or of the right program, costs 0.1,
    of anything else `wrong`."""

    def __init__(self, table, wrong=1.0):
        super().__init__(model(table)._script)
        self.wrong, self.weighed = wrong, []

    async def score(self, prefix, continuations):
        before = await self.decode(prefix)
        texts = [await self.decode(one) for one in continuations]
        self.weighed.append((before, texts))
        asked = re.findall(r"for the input (-?\d+)\?", before)
        scores = []
        for ids, text in zip(continuations, texts):
            if asked:
                is_right = text.strip("`") == str(int(asked[-1]) ** 2)
            else:
                is_right = BODIES["RIGHT"] in text
            scores.append((-0.1 if is_right else -self.wrong,) * len(ids))
        return scores, Spent(1, len(prefix), 0, 0)


def roles(table, judge="right"):
    return Roles(model(table, judge))


class OwnCalls:
    """A `Sandbox` that calls the programs of this file here, in this process."""

    features = SandboxFeatures(isolates=False, seccomp=False)

    def __init__(self, *also):
        self.runs, self.known = 0, {*map(program, BODIES), *also}

    async def run(self, script, limits):
        told = json.loads(script.files["_calls.json"])
        source = script.files["_program.py"].decode()
        assert source in self.known
        out = io.StringIO()
        for index, text in enumerate(told["inputs"]):
            self.runs += 1
            state, said = "ok", ""
            try:
                names = {}
                exec(source, names)
                said = encode(names[told["entry_point"]](*decode(text)))
            except Exception as error:
                state, said = "raised", repr(error)
            out.write(json.dumps([index, state, 0.001, said]) + "\n")
        return RunReport(Ending.EXITED, out.getvalue(), "", 0.0, exit_code=0)


def is_right(solution):
    return program("RIGHT") in solution.text
