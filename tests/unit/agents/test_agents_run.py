import asyncio

import pytest
from talk import call, finish

from evolute.agents import AgentConfig, DispatchConfig
from evolute.agents.report import summary
from evolute.agents.run import AgentsConfig, read_trajectories, run_agents
from evolute.testing import ScriptedBackend, SumTask
from evolute.types import ConfigError, Outcome, RequestError, SandboxError

CONFIG = AgentsConfig(task="sums", count=6, samples=2, agent=AgentConfig(max_new_tokens=300))


def solver(wrong=()):
    """Answers rightly, except the problems whose numbers are in `wrong`; adds once first."""
    problems = SumTask().problems("heldout", 99)

    def answer(request):
        text = bytes(id for id in request.prompt if id < 256).decode()
        if "tool_response" not in text:
            return call("add", a=1, b=2)
        number = next(n for n, p in enumerate(problems) if p.messages[0]["content"] in text)
        return finish("wrong" if number in wrong else problems[number].gold)

    return ScriptedBackend(answer, context=99_999)


def run(path, backend=None, config=CONFIG, task=None, told=None):
    on_done = None if told is None else lambda done, rollout: told.append(done)
    return asyncio.run(
        run_agents(config, task or SumTask(), backend or solver(), path, on_done=on_done)
    )


def test_a_run_is_played_written_down_and_summed_up(tmp_path):
    told = []
    ran = run(tmp_path, solver(wrong=(0, 3)), told=told)
    assert told == list(range(1, 13)) and ran.resumed == 0
    report = summary(ran.rollouts, ran.endings, ran.stats)
    assert report["n"] == 12 and report["problems"] == 6
    assert report["accuracy"] == pytest.approx(4 / 6) and 0 < report["low"] < report["high"] <= 1
    assert (report["all_solved"], report["none_solved"]) == (4, 2)
    assert report["finish_ratio"] == 1.0 and report["tool_calls"]["add"] == 1.0
    assert report["stages"]["run"]["service_s"] >= 0 and report["dispatch"]["ended/done"] == 12
    assert 0 < report["gradient_token_frac"] < 1
    assert list(ran.rollouts) == read_trajectories(tmp_path / "trajectories.jsonl")


def test_one_trajectory_a_problem_has_wilsons_interval(tmp_path):
    report = summary(run(tmp_path, config=AgentsConfig(task="sums", count=4)).rollouts)
    assert report["accuracy"] == 1.0 and report["low"] == pytest.approx(0.5101, abs=1e-3)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    asked = []

    def dying(request):
        asked.append(request)
        if len(asked) > 9:
            raise RequestError("stop")
        return solver()._script(request)

    with pytest.raises(RequestError):
        run(tmp_path, ScriptedBackend(dying, context=99_999), _slow(CONFIG))
    there = read_trajectories(tmp_path / "trajectories.jsonl")
    assert 0 < len(there) < 12
    backend = solver()
    ran = run(tmp_path, backend, _slow(CONFIG))
    assert ran.resumed == len(there) and len(ran.rollouts) == 12
    assert len(backend.requests) == 2 * (12 - len(there))
    whole = run(tmp_path / "other", config=_slow(CONFIG))
    assert ran.rollouts == whole.rollouts
    again = run(tmp_path, ScriptedBackend([AssertionError()]), _slow(CONFIG))
    assert again.resumed == 12 and again.rollouts == whole.rollouts


def _slow(config):
    return AgentsConfig(
        task="sums", count=6, samples=2, agent=config.agent, dispatch=DispatchConfig(max_run=2)
    )


def test_failed_trajectories_are_out_of_the_figures_and_played_again(tmp_path):
    class Failing(SumTask):
        def world(self, problem):
            world = super().world(problem)

            async def start():
                raise SandboxError("no room")

            if problem.gold == self.problems("heldout", 1)[0].gold:
                world.start = start
            return world

    config = AgentsConfig(task="sums", count=3, dispatch=DispatchConfig(retries=0))
    ran = run(tmp_path, config=config, task=Failing())
    report = summary(ran.rollouts, ran.endings, ran.stats)
    assert report["failed"] == 1 and report["n"] == 2 and report["failures"] == {"SandboxError": 1}
    assert ran.rollouts[0].outcome is Outcome.FAILED
    mended = run(tmp_path, config=config)
    assert mended.resumed == 2 and summary(mended.rollouts)["n"] == 3


def test_another_runs_directory_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        run(tmp_path, config=AgentsConfig(task="sums", count=7))


def test_a_backend_without_logprobs_serves_where_no_samples_are_kept(tmp_path):
    class Mute(ScriptedBackend):
        async def agenerate(self, request):
            from dataclasses import replace

            return [replace(one, logprobs=()) for one in await super().agenerate(request)]

    script = solver()._script
    strict = run(tmp_path / "a", Mute(script, context=99_999))
    assert {r.failure for r in strict.rollouts} == {"BackendError"}
    config = AgentsConfig(task="sums", count=2, agent=AgentConfig(keep_samples=False))
    ran = run(tmp_path / "b", Mute(script, context=99_999), config)
    assert [r.reward for r in ran.rollouts] == [1.0, 1.0]
    assert not any(r.samples for r in ran.rollouts)
    assert ran.rollouts[0].metrics["turns"] == 2


def test_nothing_played_has_no_figures():
    report = summary([])
    assert report["n"] == 0 and (report["low"], report["high"]) == (0.0, 1.0)
