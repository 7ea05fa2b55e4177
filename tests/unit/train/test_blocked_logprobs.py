"""Log-probabilities by blocks of the vocabulary are those of the whole softmax, gradients too."""

import pytest
import torch

from evolute.train import policy

ROWS, WIDTH, VOCABULARY = 11, 24, 130


def tensors(spread):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator) * spread
    head = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    targets[:2] = torch.tensor([0, VOCABULARY - 1])
    return hidden.requires_grad_(), head, targets


def whole(hidden, head, targets, temperature):
    found = (hidden.double() @ head.double().T / temperature).log_softmax(-1)
    return found.gather(1, targets[:, None])[:, 0], -(found.exp() * found).sum(-1)


@pytest.mark.parametrize("spread", [0.01, 1.0, 20.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 50), (11, 64), (100, 1000)])
def test_blocks_change_nothing(monkeypatch, spread, rows, columns):
    monkeypatch.setattr(policy, "ROWS", rows)
    monkeypatch.setattr(policy, "COLUMNS", columns)
    hidden, head, targets = tensors(spread)
    weights = torch.linspace(-1, 1, ROWS)
    logprobs, entropy = policy._BlockedLogprob.apply(hidden, head, None, targets, 0.7)
    (gradient,) = torch.autograd.grad((logprobs * weights).sum(), hidden)
    expected, expected_entropy = whole(hidden, head, targets, 0.7)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    torch.testing.assert_close(logprobs.double(), expected, atol=2e-4, rtol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=2e-4, rtol=1e-5)
    if spread < 10:  # logits of moderate size: as exact as float32 is
        torch.testing.assert_close(logprobs.double(), expected, atol=5e-6, rtol=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, atol=5e-6, rtol=1e-5)
