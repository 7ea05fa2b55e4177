"""Worlds of other packages, by doubles of their interfaces; with a package installed, the real
one too."""

import json
import sys
import types
from types import SimpleNamespace

import pytest

from evolute.envs import make_task
from evolute.envs.adapters.openenv import shown
from evolute.envs.step import read_step
from evolute.types import ConfigError, EpisodeError

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What is {k} + {k}?"}],
        "env_class": "gsm8k",
        "reward_spec": {"method": "rule", "ground_truth": str(2 * k)},
        "extra_info": {"max_turns": 2},
        "gold": f"#### {2 * k}",
    }
    for k in range(40)
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return path


def install(monkeypatch, name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


# -- skyrl-gym ---------------------------------------------------------------


class Gsm8k:
    """As skyrl-gym makes it: keyword arguments, dicts out."""

    def __init__(self, env_config, extras):
        assert "prompt" not in extras and env_config.level == 3
        self.truth = extras["reward_spec"]["ground_truth"]

    def init(self, prompt):
        return prompt, {}

    def step(self, action):
        right = action == f"#### {self.truth}"
        return {"observations": [], "reward": float(right), "done": True, "metadata": {}}

    def close(self):
        return None

    def get_metrics(self):
        return {}


@pytest.fixture
def gym(monkeypatch):
    def spec(name):
        if name != "gsm8k":
            raise KeyError(name)

    def make(name, env_config, extras):
        return Gsm8k(env_config, extras)

    install(monkeypatch, "skyrl_gym", spec=spec, make=make)


def test_skyrl_gyms_environments_run_on_rows(gym, rows):
    name = f'skyrl-gym:gsm8k?data={rows}&config={{"level": 3}}'
    task = make_task(name)
    train, heldout = task.problems("train", 20), task.problems("heldout", 3)
    assert not {p.id for p in train} & {p.id for p in heldout}
    assert train == task.problems("train", 20) and train != task.problems("train", 20, 1)
    for problem in train:
        env = task.make(problem)
        messages, _ = env.init(problem.messages)
        assert messages[0]["content"].startswith("What is")
        assert read_step(env.step(problem.gold)).reward == 1.0
        assert read_step(task.make(problem).step("no idea")).reward == 0.0
    with pytest.raises(ConfigError, match="has only"):
        task.problems("train", 41)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", "needs data=FILE"),
        ("data=/nowhere.jsonl", "cannot be read"),
        ("data=ROWS&config=[1]", "must be a JSON object"),
        ("data=ROWS&config={", "no JSON"),
        ("data=ROWS&dtaa=1", "Did you mean 'data'?"),
        ("data=ROWS&max_new_tokens=0", "from 1 on"),
        ("data=ROWS&data=ROWS", "given twice"),
    ],
)
def test_what_skyrl_gym_lacks_is_told(gym, rows, options, told):
    with pytest.raises(ConfigError) as raised:
        make_task(f"skyrl-gym:gsm8k?{options.replace('ROWS', str(rows))}")
    assert told in str(raised.value)
    with pytest.raises(ConfigError, match="no environment 'gsm9k'"):
        make_task(f"skyrl-gym:gsm9k?data={rows}")


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": []}', '{"prompt": [{"role": 1}]}', "7"])
def test_a_bad_row_is_named_by_its_line(gym, tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        make_task(f"skyrl-gym:gsm8k?data={path}")


def test_a_row_that_the_environment_refuses_is_told(gym, rows):
    task = make_task(f"skyrl-gym:gsm8k?data={rows}")
    with pytest.raises(ConfigError, match="refuses the row"):
        task.make(task.problems("train", 1)[0])


# -- openenv -----------------------------------------------------------------


class Client:
    """OpenEnv's generic client, synchronous: an echo that is done at the third step."""

    made: list = []  # noqa: RUF012

    def __init__(self, base_url):
        self.url, self.steps, self.is_closed = base_url, [], False
        Client.made.append(self)

    def sync(self):
        return self

    def reset(self, seed):
        if "down" in self.url:
            raise ConnectionError("refused")
        return SimpleNamespace(observation={"prompt": f"seed {seed}"}, reward=None, done=False)

    def step(self, action):
        self.steps.append(action)
        done = len(self.steps) == 3
        return SimpleNamespace(observation={"text": "go on"}, reward=0.5, done=done)

    def close(self):
        self.is_closed = True


@pytest.fixture
def openenv(monkeypatch):
    install(monkeypatch, "openenv")
    install(monkeypatch, "openenv.core", GenericEnvClient=Client)
    Client.made.clear()


def test_an_openenv_server_is_played_by_its_client(openenv):
    task = make_task("openenv:http://host:1?action=say&turns=5")
    train, heldout = task.problems("train", 10), task.problems("heldout", 10)
    assert not {p.id for p in train} & {p.id for p in heldout}
    env = task.make(train[0])
    messages, _ = env.init(train[0].messages)
    assert messages == [{"role": "user", "content": f"seed {train[0].extras['seed']}"}]
    steps = [read_step(env.step("hello")) for _ in range(3)]
    env.close()
    (client,) = Client.made
    assert [s.done for s in steps] == [False, False, True]
    assert sum(s.reward for s in steps) == 1.5 and client.is_closed
    assert client.steps == [{"say": "hello"}] * 3
    assert steps[0].observations[0]["content"] == "go on"


def test_openenv_turns_run_out_and_failures_are_told(openenv):
    task = make_task("openenv:http://host:1?turns=1")
    env = task.make(task.problems("train", 1)[0])
    env.init(())
    step = read_step(env.step("x"))
    assert step.done and step.metadata["truncated"]
    down = make_task("openenv:http://down:1")
    with pytest.raises(EpisodeError, match="cannot be reset"):
        down.make(down.problems("train", 1)[0]).init(())
    with pytest.raises(ConfigError, match="names no server"):
        make_task("openenv:echo")


@pytest.mark.parametrize(
    ("observation", "field", "text"),
    [
        ("plain", "", "plain"),
        ({"message": "m", "z": 1}, "", "m"),
        ({"z": 1}, "", '{"z": 1}'),
        ({"z": [1, 2]}, "z", "[1, 2]"),
        ({"messages": [{"content": "a"}, {"content": "b"}]}, "", "b"),
    ],
)
def test_what_is_shown_of_an_observation(observation, field, text):
    assert shown(observation, field) == text


def test_an_observation_without_the_field_is_a_failure():
    with pytest.raises(EpisodeError, match=r"no field 'a'; it has \['b'\]"):
        shown({"b": 1}, "a")
    with pytest.raises(EpisodeError, match="is a int"):
        shown(3, "")


# -- verifiers ---------------------------------------------------------------


class Task:
    NEEDS_CONTAINER = False
    config = None

    def __init__(self, k, prompt="q", tools=()):
        text = f"What is {k}?" if prompt == "q" else prompt
        self.data = SimpleNamespace(prompt=text, system_prompt="Be brief.")
        self.key, self.hash, self.answer, self._tools = f"key {k}", "h", str(k), tools

    @classmethod
    def toolsets(cls, config):
        return []

    async def score(self, trace):
        trace.metrics["length"] = float(len(trace.nodes))
        right = trace.nodes[-1].sampled and trace.nodes[-1].message.content == self.answer
        trace.rewards["right"] = SimpleNamespace(score=float(right))
        trace.reward = 2.0 * right


@pytest.fixture
def verifiers(monkeypatch):
    def message(role):
        return lambda content: SimpleNamespace(role=role, content=content)

    def node(**parts):
        return SimpleNamespace(**parts)

    def trace(**parts):
        return SimpleNamespace(**parts, metrics={}, rewards={}, reward=0.0)

    tasks = {"plain": [Task(k) for k in range(30)], "silent": [Task(0, prompt=None)]}

    def config_type(name):
        if name not in tasks:
            raise ModuleNotFoundError(f"taskset {name!r} not found")
        return lambda id: id

    install(monkeypatch, "verifiers")
    install(
        monkeypatch,
        "verifiers.v1",
        SystemMessage=message("system"),
        UserMessage=message("user"),
        AssistantMessage=message("assistant"),
        MessageNode=node,
        Trace=trace,
        TraceTask=node,
        AgentInfo=node,
        AgentConfig=node,
    )
    install(monkeypatch, "verifiers.v1.state", state_cls=lambda kind: dict)
    install(monkeypatch, "verifiers.v1.utils")
    install(
        monkeypatch,
        "verifiers.v1.utils.loaders",
        taskset_config_type=config_type,
        load_taskset=lambda name: tasks[name],
    )


def test_a_verifiers_task_set_is_scored_by_its_own_rewards(verifiers):
    task = make_task("verifiers:plain?max_new_tokens=32")
    assert task.max_new_tokens == 32
    train, heldout = task.problems("train", 15), task.problems("heldout", 2)
    assert not {p.id for p in train} & {p.id for p in heldout}
    problem = train[0]
    assert [m["role"] for m in problem.messages] == ["system", "user"]
    env = task.make(problem)
    assert env.init(())[0] == list(problem.messages)
    assert read_step(env.step(problem.id.removeprefix("key "))).reward == 2.0
    assert env.get_metrics() == {"length": 3.0, "reward_right": 1.0}
    assert read_step(task.make(problem).step("no idea")).reward == 0.0


def test_a_verifiers_task_that_needs_more_is_refused(verifiers):
    with pytest.raises(ConfigError, match="a user who speaks first"):
        make_task("verifiers:silent").problems("train", 1)
    with pytest.raises(ConfigError, match="cannot load the task set 'other'"):
        make_task("verifiers:other")


# -- without a package -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("skyrl-gym:gsm8k?data=x", "skyrl_gym", "skyrl-gym"),
        ("verifiers:plain", "verifiers.v1", "verifiers"),
        ("openenv:http://host:1", "openenv.core", "openenv"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        make_task(name)
    with pytest.raises(ConfigError, match="names no world"):
        make_task(name.partition(":")[0] + ":")


def test_the_real_skyrl_gym_where_it_is_installed(rows):
    pytest.importorskip("skyrl_gym")
    task = make_task(f"skyrl-gym:gsm8k?data={rows}")
    problem = task.problems("train", 1)[0]
    env = task.make(problem)
    env.init(problem.messages)
    assert read_step(env.step(problem.gold)).reward == 1.0
