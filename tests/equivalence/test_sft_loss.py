"""The supervised loss is transformers' on the same batch; with an adapter it is peft's."""

import json

import pytest
import torch

from evolute.models import LoraConfig, export_model, load_model, save_peft
from evolute.train import Policy
from evolute.train.rollouts import pack
from evolute.train.sft import SftConfig, SftTrainer, read
from evolute.train.sft.trainer import weighted

transformers = pytest.importorskip("transformers")
TINY = load_model("tiny")
ROWS = [
    [("user", "What is 2 + 3?"), ("assistant", "5")],
    [("system", "Be brief."), ("user", "Say hello."), ("assistant", "Hello there, Örjan!")],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "dd")],
    [("user", "What is 2 + 3?"), ("assistant", "It is five.")],
]


@pytest.fixture
def samples(tmp_path):
    rows = [{"messages": [{"role": r, "content": c} for r, c in row]} for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(tmp_path / "rows.jsonl", TINY.tokenizer, "assistant")


def theirs(directory):
    export_model(TINY, directory)
    return transformers.AutoModelForCausalLM.from_pretrained(directory).train()


def batch_of(samples):
    """A padded batch with labels, as transformers' own trainers make it."""
    ids = [torch.tensor([*s.prompt_ids, *s.response_ids]) for s in samples]
    told = [[t if m else -100 for t, m in zip(s.response_ids, s.loss_mask)] for s in samples]
    labels = [torch.tensor([-100] * len(s.prompt_ids) + t) for s, t in zip(samples, told)]
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(i) for i in ids], batch_first=True)
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": mask,
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


def ours(policy, samples, budget=10_000):
    total = 0.0
    for batch in pack(weighted(samples), budget):
        tokens, scores = policy.scores(batch, 1.0)
        loss = -(scores.logprobs * tokens.advantages).sum()
        loss.backward()
        total += float(loss.detach())
    return total


def noisy(lora):
    policy = Policy(TINY, lora, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, b in policy.lora.tensors.values():
            b.copy_(0.05 * torch.randn(b.shape, generator=generator))
    return policy


def test_the_loss_of_all_weights_is_that_of_transformers(samples, tmp_path):
    model = theirs(tmp_path / "model")
    expected = model(**batch_of(samples)).loss
    expected.backward()
    policy = Policy(TINY, None)
    assert ours(policy, samples) == pytest.approx(expected.item(), abs=1e-5)
    gradients = {f"model.{name}": p.grad for name, p in policy.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("fused", [True, False])
def test_the_loss_of_an_adapter_is_that_of_peft(samples, tmp_path, fused):
    peft = pytest.importorskip("peft")
    policy = noisy(LoraConfig(rank=4))
    if not fused:
        policy._fused = None
    save_peft(policy.lora, tmp_path / "adapter", base_model="tiny")
    model = peft.PeftModel.from_pretrained(
        theirs(tmp_path / "model"), tmp_path / "adapter", is_trainable=True
    )
    expected = model(**batch_of(samples)).loss
    expected.backward()
    assert ours(policy, samples) == pytest.approx(expected.item(), abs=1e-5)
    named = dict(model.named_parameters())
    for name, parameter in policy.named_parameters():
        layer, module, part = name.split(".")
        (key,) = [k for k in named if f"layers.{layer}." in k and f".{module}.lora_{part}." in k]
        torch.testing.assert_close(parameter.grad, named[key].grad, atol=1e-5, rtol=1e-4, msg=name)


def test_three_steps_are_those_of_a_plain_loop(samples, tmp_path):
    """The same weights after AdamW with warm-up, decay and clipping."""
    config = SftConfig(model="tiny", method="full")
    policy = Policy(TINY, None)
    trainer = SftTrainer(policy, config, num_steps=3)
    model = theirs(tmp_path / "model")
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, (settings.beta1, settings.beta2), weight_decay=0.0
    )
    for step, factor in enumerate((0.5, 1.0, 0.1)):  # two of warm-up, then a tenth
        report = trainer.update(samples)
        optimizer.zero_grad()
        loss = model(**batch_of(samples)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.param_groups[0]["lr"] = settings.lr * factor
        optimizer.step()
        assert report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-4), step
        assert report.metrics["lr"] == pytest.approx(settings.lr * factor)
