"""How tools and results are told to models whose chat templates know tools, or do not."""

import pytest
from talk import Played, call, finish, function

from evolute.agents.history import form_of
from evolute.agents.parsing import Form
from evolute.models.chat_template import ChatTemplate
from evolute.testing import ByteTokenizer, ScriptedBackend

NATIVE = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}{% for m in messages %}"
    "[{{ m.role }}]{{ m.content }}\x02{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
HERMES = NATIVE + "{# <tool_call> #}"
CODER = NATIVE + "{# <function= #}"
STRICT = HERMES.replace(
    "[{{ m.role }}]",
    "{% if m.role == 'tool' %}{{ raise_exception('no tool turns') }}{% endif %}[{{ m.role }}]",
)


class Templated(ByteTokenizer):
    """Bytes with a chat template of its own; \\x02 is the end of a turn."""

    def __init__(self, source):
        super().__init__()
        self.template = ChatTemplate(source)
        self.template_variables = self.template.variables
        self.stop_token_ids = frozenset({256, 2})

    def chat(self, messages, *, add_generation_prompt=True, tools=None, variables=None, **_):
        text = self.template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, variables=variables
        )
        return list(text.encode())


@pytest.mark.parametrize(
    ("source", "form"), [(HERMES, Form.HERMES), (NATIVE, Form.JSON), (CODER, Form.FUNCTION)]
)
def test_the_form_is_that_of_the_template(source, form):
    assert form_of(Templated(source), "auto") is form
    assert form_of(Templated(source), "function") is Form.FUNCTION
    assert form_of(ByteTokenizer(), "auto") is Form.HERMES


def played(source, script):
    backend = ScriptedBackend(script, tokenizer=Templated(source), context=99_999)
    return Played(None, backend=backend)


def test_a_template_that_knows_tools_gets_them_as_such():
    run = played(HERMES, [call("add", a=1, b=2), finish()])
    assert run.told(0).startswith('tools: [{"type": "function"')
    assert run.told(1).endswith("\x02[tool]3\x02[assistant]")
    assert run.world.added == [3] and len(run.rollout.samples) == 1


def test_results_are_a_users_turn_where_the_template_wants_no_tool_turns():
    run = played(STRICT, [call("add", a=1, b=2), finish()])
    assert "[user]<tool_response>\n3\n</tool_response>\x02" in run.told(1)


def test_a_template_of_functions():
    run = played(CODER, [function("add", a=1, b=2), function("finish", answer="3")])
    assert run.told(0).startswith("tools: [") and run.world.added == [3]
    assert run.rollout.metadata["answer"] == "3"
