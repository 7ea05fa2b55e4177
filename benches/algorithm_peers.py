"""Losses and gradients beside TRL's own trainer, on the same random tensors in float64.

    python benches/algorithm_peers.py --trl-python /path/to/venv/bin/python > algorithm_peers.json

TRL needs an environment of its own: pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0
peft==0.21.2. There, `GRPOTrainer._compute_loss` runs as it is, on a trainer object whose forward
pass answers with the given log-probabilities. The tensors go over in a file. One JSON object comes
out: for each case and seed the largest difference of loss and of gradient, relative to the largest
entry. Exit status 1 when one is above the bound. A GPU is not needed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

BOUND = 1e-6
LENGTHS = (7, 1, 12, 4, 9, 3)
WIDTH = 16  # of the padded matrices; also the constant of Dr. GRPO
TIMEOUT_S = 600

# case -> TRL's attributes, TRL's args, our loss settings, our reduction, coefficient of the KL
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, float]] = {
    "grpo": ({"loss_type": "grpo"}, {}, {}, "sequence_mean", 0.0),
    "bnpo": ({"loss_type": "bnpo"}, {}, {}, "token_mean", 0.0),
    "dapo, clip-higher": (
        {"loss_type": "dapo", "epsilon_high": 0.28},
        {},
        {"clip_high": 0.28},
        "token_mean",
        0.0,
    ),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {}, {}, "seq_mean_token_sum_norm", 0.0),
    "two-sided clip": (
        {"loss_type": "dapo"},
        {"delta": 1.5},
        {"name": "dual_clip", "dual_clip": 1.5},
        "token_mean",
        0.0,
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {},
        {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2},
        "sequence_mean",
        0.0,
    ),
    "gspo, the paper's bounds": (
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 3e-4,
            "epsilon_high": 4e-4,
        },
        {},
        {"name": "gspo"},
        "sequence_mean",
        0.0,
    ),
    "luspo": (
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {},
        {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2},
        "seq_mean_token_sum",
        0.0,
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.2},
        {},
        {"name": "cispo", "clip_low": 1.0, "clip_high": 0.2},
        "token_mean",
        0.0,
    ),
    "sapo": ({"loss_type": "sapo"}, {}, {"name": "sapo"}, "sequence_mean", 0.0),
    "grpo with a k3 KL": ({"loss_type": "grpo", "beta": 0.3}, {}, {}, "sequence_mean", 0.3),
    "dapo with a k3 KL": ({"loss_type": "dapo", "beta": 0.3}, {}, {}, "token_mean", 0.3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl-python", help="the interpreter of TRL's environment")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _trl(options.worker, options.seeds)
        return
    if not options.trl_python:
        parser.error("--trl-python is missing")
    found = _compare(options.trl_python, options.seeds)
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["largest"] <= BOUND else 1)


def _compare(python: str, seeds: int) -> dict[str, Any]:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for seed in range(seeds):
            np.savez(path / f"{seed}.npz", **_tensors(seed))
        command = [python, "-P", __file__, "--worker", folder, "--seeds", str(seeds)]
        subprocess.run(command, check=True, timeout=TIMEOUT_S, stdout=sys.stderr)
        for case in CASES:
            for seed in range(seeds):
                loss, gradient = _ours(case, np.load(path / f"{seed}.npz"))
                theirs = np.load(path / f"{_slug(case)}-{seed}.npz")
                rows[f"{case}/{seed}"] = {
                    "loss": loss,
                    "loss_difference": abs(loss - float(theirs["loss"])),
                    "gradient_difference": float(
                        np.abs(gradient - theirs["gradient"]).max() / np.abs(gradient).max()
                    ),
                }
    largest = max(max(r["loss_difference"], r["gradient_difference"]) for r in rows.values())
    return {"largest": largest, "bound": BOUND, "num_cases": len(rows), "rows": rows}


def _tensors(seed: int) -> dict[str, Any]:
    """Padded matrices, sequences by tokens, and one advantage a sequence."""
    draw = np.random.default_rng(seed)
    shape = (len(LENGTHS), WIDTH)
    logprobs = -np.abs(draw.normal(size=shape)) - 0.05
    return {
        "logprobs": logprobs,
        "old": logprobs + 0.4 * draw.normal(size=shape),
        "reference": logprobs + 0.4 * draw.normal(size=shape),
        "advantages": draw.normal(size=len(LENGTHS)),
        "mask": (np.arange(WIDTH)[None] < np.array(LENGTHS)[:, None]).astype(np.float64),
    }


def _ours(case: str, given: Any) -> tuple[float, Any]:
    from evolute.train.algorithms import LossConfig, kl_estimate, policy_loss, token_weights

    _, _, settings, reduction, kl = CASES[case]
    mask = torch.from_numpy(given["mask"]).bool()
    sequence = mask.nonzero()[:, 0]
    weights = token_weights(reduction, LENGTHS, range(len(LENGTHS)), WIDTH)
    weight = torch.tensor(weights, dtype=torch.float64)[sequence]
    advantages = torch.from_numpy(given["advantages"])[sequence] * weight
    matrix = torch.from_numpy(given["logprobs"]).requires_grad_()
    logprobs, old = matrix[mask], torch.from_numpy(given["old"])[mask]
    losses = policy_loss(
        logprobs, old, advantages, LossConfig(**settings), weights=weight, sequence=sequence
    )
    reference = torch.from_numpy(given["reference"])[mask]
    loss = (losses + kl * weight * kl_estimate(logprobs, reference, "k3")).sum()
    (gradient,) = torch.autograd.grad(loss, matrix)
    return float(loss.detach()), gradient.numpy()


# -- in TRL's environment ----------------------------------------------------


def _trl(folder: Path, seeds: int) -> None:
    for case in CASES:
        for seed in range(seeds):
            loss, gradient = _their_loss(case, np.load(folder / f"{seed}.npz"))
            np.savez(folder / f"{_slug(case)}-{seed}.npz", loss=loss, gradient=gradient)


def _their_loss(case: str, given: Any) -> tuple[float, Any]:
    from trl import GRPOTrainer

    matrix = torch.from_numpy(given["logprobs"]).requires_grad_()
    trainer = object.__new__(GRPOTrainer)
    trainer.__dict__.update(_attributes(case))
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (
        matrix,
        torch.zeros_like(matrix),
        None,
    )
    mask = torch.from_numpy(given["mask"])
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :2],
        "prompt_mask": torch.ones_like(ids[:, :2]),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.from_numpy(given["advantages"]),
        "old_per_token_logps": torch.from_numpy(given["old"]),
        "ref_per_token_logps": torch.from_numpy(given["reference"]),
        "num_items_in_batch": mask.sum(),
    }
    loss = trainer._compute_loss(None, inputs)
    (gradient,) = torch.autograd.grad(loss, matrix)
    return float(loss.detach()), gradient.numpy()


def _attributes(case: str) -> dict[str, Any]:
    """What `_compute_loss` reads of a trainer; one process, no accumulation."""
    from collections import defaultdict
    from types import SimpleNamespace

    attributes, args, _, _, _ = CASES[case]
    accelerator = SimpleNamespace(
        num_processes=1, reduce=lambda x, **_: x, gather=lambda x: torch.atleast_1d(x)
    )
    defaults = {
        "use_bias_correction_kl": False,
        "delta": None,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "steps_per_generation": 1,
    }
    return {
        "accelerator": accelerator,
        "args": SimpleNamespace(**{**defaults, **args}),
        "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": WIDTH,
        "_entropy_bonus_enabled": False,
        **attributes,
    }


def _slug(case: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in case)


if __name__ == "__main__":
    main()
