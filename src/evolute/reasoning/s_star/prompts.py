"""What the models of S* are asked.

write, repair                        a program, and a better one
more_inputs, distinguishing          inputs, one a line as a Python tuple
more_tests                           inputs with expected values
which_output, which_program          a judge's question; the answer ends in A, B or tie
value_of                             what a right program gives: its probability is a vote
await put(model, question, sampling) one answer
await to_prompt(model, question)     what the answer continues
begun(style)                         what of a function's body the prompt has written already
"""

from __future__ import annotations

from collections.abc import Sequence

from evolute.envs.code.problem import CodeProblem
from evolute.lang.backend import Prompt, TextBackend, TextRequest
from evolute.reasoning.asking import ask, prompt_of
from evolute.types import Message, SamplingParams

Question = str | Prompt  # a text is said by the user; a prompt is gone on with
GOES_ON = ("complete", "body")  # styles of models that go on where the header ends
INDENT = "   "  # of a body's first line, but the space that belongs to its first word's token
SHOWN = 2000  # characters of a value that a judge is shown
BLOCK = "Answer with one Python code block that holds the whole program."


async def put(model: TextBackend, question: Question, sampling: SamplingParams) -> str:
    if isinstance(question, str):
        message: Message = {"role": "user", "content": question}
        return await ask(model, [message], sampling)
    reply = await model.generate(TextRequest(question, sampling))
    return reply.outputs[0].text


async def to_prompt(model: TextBackend, question: Question) -> Prompt:
    """What the answer to a question continues."""
    if isinstance(question, Prompt):
        return question
    return await prompt_of(model, [{"role": "user", "content": question}])


def begun(style: str) -> str:
    return INDENT if style == "body" else ""


def write(code: CodeProblem, style: str) -> Question:
    if style in GOES_ON:
        return Prompt.of(_header(code) + begun(style))
    return f"{_task(code)}\n\n{BLOCK}"


def repair(
    code: CodeProblem, attempts: Sequence[tuple[str, tuple[str, ...]]], style: str
) -> Question:
    """With every earlier program and what each public test said of it."""
    if style in GOES_ON:
        source, lines = attempts[-1]
        told = "\n".join(f"# {line}" for line in [*source.splitlines(), *lines])
        header = _header(code) + begun(style)
        return Prompt.of(f"# A wrong attempt:\n{told}\n\n# The right program:\n{header}")
    told = "\n\n".join(
        f"Attempt {k}:\n```python\n{source}```\nIts tests:\n" + "\n".join(lines)
        for k, (source, lines) in enumerate(attempts, 1)
    )
    return f"{_task(code)}\n\n{told}\n\nThe last attempt is wrong. Write a right one. {BLOCK}"


def more_inputs(code: CodeProblem, count: int) -> str:
    return (
        f"{_task(code)}\n\nWrite {count} inputs that test such a program well: edge cases and "
        f"tricky ones, none of them large. {_form(code)}"
    )


def distinguishing(code: CodeProblem, one: str, other: str, count: int) -> str:
    return (
        f"{_task(code)}\n\nTwo programs for it:\n```python\n{one}```\n```python\n{other}```\n"
        f"Write {count} inputs on which they may give different results. {_form(code)}"
    )


def more_tests(code: CodeProblem, count: int) -> str:
    return (
        f"{_task(code)}\n\nWrite {count} tests. One test a line, as a Python tuple of two parts: "
        "the tuple of all arguments, and the expected result. Write nothing else."
    )


def which_output(code: CodeProblem, shown_input: str, one: str, other: str) -> str:
    """Grounded: the judge sees what both programs really gave."""
    return (
        f"{_task(code)}\n\nTwo programs were run on the input {_cut(shown_input)}.\n"
        f"A gave: {_cut(one)}\nB gave: {_cut(other)}\n"
        "Which result is right? Think, then end with one line: A, B or tie."
    )


def which_program(code: CodeProblem, one: str, other: str) -> str:
    """Not grounded: programs alone, the paper's baseline."""
    return (
        f"{_task(code)}\n\nProgram A:\n```python\n{one}```\nProgram B:\n```python\n{other}```\n"
        "Which program is right? Think, then end with one line: A, B or tie."
    )


def value_of(code: CodeProblem, shown_input: str, style: str) -> tuple[Question, str]:
    """What comes before a value, and how a value is written there ("{}"): between marks, since a
    number that begins another one would always be more probable."""
    if style in GOES_ON:
        told = f"{_commented(code)}\n# {code.entry_point or 'program'}({shown_input}) == "
        return Prompt.of(told), "{}\n"
    asked = (
        f"{_task(code)}\n\nWhat does a right program give for the input {_cut(shown_input)}? "
        "Answer with the value alone, between backticks."
    )
    return asked, "`{}`"


# -- internals ---------------------------------------------------------------


def _task(code: CodeProblem) -> str:
    if code.starter and code.starter.strip() not in code.statement:
        return f"{code.statement}\n\nThe program begins:\n```python\n{code.starter}```"
    return code.statement


def _header(code: CodeProblem) -> str:
    if code.statement == code.starter:
        return code.starter
    return f"{_commented(code)}\n{code.starter}"


def _commented(code: CodeProblem) -> str:
    return "\n".join(f"# {line}" for line in code.statement.splitlines())


def _form(code: CodeProblem) -> str:
    what = (
        "a tuple with the text of stdin" if code.kind == "stdin" else "the tuple of all arguments"
    )
    return f"One input a line, as a Python tuple: {what}. Write nothing else."


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
