"""Worlds of other packages as tasks: skyrl-gym, verifiers, OpenEnv."""

from evolute.envs.adapters.openenv import openenv_task
from evolute.envs.adapters.skyrl_gym import skyrl_gym_task
from evolute.envs.adapters.verifiers import verifiers_task

__all__ = ["openenv_task", "skyrl_gym_task", "verifiers_task"]
