import asyncio

from worlds import OneWorld, World, problem, said

from evolute.envs import EpisodePlayer, run_episode
from evolute.testing import ScriptedBackend
from evolute.types import Player, Rollout, SamplingParams, StepResult


def test_an_episode_is_a_player():
    sampling = SamplingParams(max_new_tokens=32)

    async def both() -> list[Rollout]:
        told = []
        for _ in range(2):
            backend = ScriptedBackend(["one", "two"])
            task = OneWorld(lambda: World(said("a"), StepResult(reward=1.0)))
            player = EpisodePlayer(task, backend, sampling)
            assert isinstance(player, Player)
            told.append(await player.play(problem(), group=3, index=2, seed=7))
            told.append(
                await run_episode(
                    task,
                    problem(),
                    ScriptedBackend(["one", "two"]),
                    sampling,
                    group=3,
                    index=2,
                    seed=7,
                )
            )
        return told

    played = asyncio.run(both())
    assert (played[0].group, played[0].index) == (3, 2)
    assert all(one == played[0] for one in played)
