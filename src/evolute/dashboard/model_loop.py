"""The model loop in a report: accuracy, learning, agreement, publications, samples, failures."""

from __future__ import annotations

import html
from collections import Counter

from evolute.dashboard.page import Cell, note, number, section, table
from evolute.dashboard.plots import Interval, intervals, lines
from evolute.dashboard.run import Record, Run, interval, real

MAX_LOGPROB_DIFFERENCE = 0.02  # nats a token, mean, with unquantised rollouts
MAX_MISMATCH_KL = 0.01
NUM_SAMPLES = 5  # shown of the first and of the last step


def accuracy(run: Run) -> str:
    """Held-out accuracy, base against trained, and the interval of the difference."""
    found = [i for name, e in run.eval_by_name.items() if (i := interval(e, name))]
    if not found:
        return section("Accuracy", note("Not measured yet."))
    sizes = {name: record.get("n", "-") for name, record in run.eval_by_name.items()}
    rows: list[list[Cell]] = [[i.name, percent(i), sizes[i.name]] for i in found]
    parts = [
        intervals("held-out accuracy, mean and 95 % interval", found),
        table(["weights", "accuracy (95 % interval)", "problems"], rows),
    ]
    gain = interval(run.last("difference"), "difference")
    if gain:
        sure = "above" if gain.low > 0 else "below" if gain.high < 0 else "not clear of"
        parts.append(
            f"<p>Trained minus base, on the same problems: <b>{points(gain)}</b>; "
            f"the interval is {sure} zero.</p>"
        )
    else:
        parts.append(note("The trained weights have not been compared with the base yet."))
    return section("Accuracy", *parts)


def training(run: Run) -> str:
    """Curves over the steps."""
    if not run.steps:
        return section("Training", note("No step has finished."))
    first, last = run.steps[0], run.steps[-1]
    steps = f"{len(run.steps)} steps"
    wanted = run.config.get("train", run.config).get("steps")
    if isinstance(wanted, int) and len(run.steps) < wanted:
        steps += f" of {wanted}: this run is not finished"
    tokens = sum(real(s, "tokens") or 0 for s in run.steps)
    text = (
        f"{steps}; {tokens:,.0f} sampled tokens; reward of the rollouts "
        f"{number(first.get('reward_mean'))} in step {first['step']}, "
        f"{number(last.get('reward_mean'))} in step {last['step']}."
    )
    plots = [
        lines(
            "reward of the rollouts, with its 95 % interval, and accuracy",
            run.series("reward_mean", "accuracy_mean"),
            low=0.0,
            high=1.0,
            bands={"reward_mean": _reward_band(run)},
        ),
        _held_out(run),
        lines("entropy (nats a token)", _trained(run, "entropy"), low=0.0),
        lines("norm of the gradient", _trained(run, "grad_norm"), low=0.0),
        lines("loss (the gradient matters, not its height)", _trained(run, "loss")),
        lines("seconds a step", run.series("rollout_s", "update_s", "publish_s"), low=0.0),
    ]
    return section("Training", note(text), f'<div class="plots">{"".join(plots)}</div>')


def agreement(run: Run) -> str:
    """Do trainer and engine compute the same model? Per step, with the bounds that we hold."""
    if not run.steps:
        return ""
    worst = {
        name: max((real(s, name) or 0.0 for s in run.steps), default=0.0)
        for name in ("logprob_abs_diff_mean", "mismatch_kl", "canary_abs_diff")
    }
    fine = (
        worst["logprob_abs_diff_mean"] <= MAX_LOGPROB_DIFFERENCE
        and worst["mismatch_kl"] < MAX_MISMATCH_KL
    )
    verdict = '<b class="good">hold</b>' if fine else '<b class="bad">do not hold</b>'
    text = (
        f"<p>The bounds {verdict}: mean |difference of log-probabilities| at most "
        f"{worst['logprob_abs_diff_mean']:.2g} (bound {MAX_LOGPROB_DIFFERENCE}), mismatch KL at "
        f"most {worst['mismatch_kl']:.2g} (bound {MAX_MISMATCH_KL}).</p>"
    )
    plots = [
        lines(
            "mean |log-probability difference|, sampled tokens",
            run.series("logprob_abs_diff_mean"),
            low=0.0,
        ),
        lines("mismatch KL", run.series("mismatch_kl"), low=0.0),
    ]
    rows: list[list[Cell]] = [
        [
            s["step"],
            s.get("version"),
            str(s.get("fingerprint", "-"))[:16],
            number(s.get("canary_abs_diff"), ".1e"),
        ]
        for s in run.steps
    ]
    head = ["after step", "version", "fingerprint, both sides", "canary |dlogp|"]
    explain = note(
        "A publication counts only when the engine's digest of the adapter equals the trainer's "
        "and both give a canary prompt the same log-probabilities."
    )
    return section(
        "Trainer and engine",
        text,
        f'<div class="plots">{"".join(plots)}</div>',
        "<h3>Publications</h3>",
        explain,
        table(head, rows),
    )


def failures(run: Run) -> str:
    """Episodes that broke for reasons that are not the model's, by class."""
    counts: Counter[str] = Counter()
    for step in run.steps:
        failed = step.get("failures")
        counts.update(failed if isinstance(failed, dict) else {})
    if not counts:
        return section("Failures", note("No episode failed for a reason outside the model."))
    rows: list[list[Cell]] = [[name, count] for name, count in counts.most_common()]
    return section("Failures", table(["error", "episodes"], rows))


def samples(run: Run) -> str:
    """What the model said, early and late."""
    taken = [s for s in run.samples if isinstance(s.get("step"), int)]
    if not taken:
        return section("Samples", note("No rollout has been recorded."))
    numbers = sorted({s["step"] for s in taken})
    parts = []
    for step in dict.fromkeys((numbers[0], numbers[-1])):
        shown = [s for s in taken if s["step"] == step][:NUM_SAMPLES]
        parts.append(f"<h3>Step {html.escape(str(step))}</h3>{_answers(shown)}")
    return section("Samples", *parts)


def percent(value: Interval) -> str:
    return f"{value.mean:.1%} ({value.low:.1%} to {value.high:.1%})"


def points(value: Interval) -> str:
    """A difference of two percentages."""
    mean, low, high = (100 * v for v in (value.mean, value.low, value.high))
    return f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})"


# -- internals ---------------------------------------------------------------


def _trained(run: Run, name: str) -> dict[str, list[tuple[float, float]]]:
    """A figure of the update, without the steps whose rewards had no contrast: nothing was
    trained in them, and their zeros are no measurements."""
    idle = {s["step"] for s in run.steps if real(s, "effective_token_frac") == 0.0}
    return {n: [p for p in s if p[0] not in idle] for n, s in run.series(name).items()}


def _reward_band(run: Run) -> list[tuple[float, float, float]]:
    ends = [(s["step"], real(s, "reward_low"), real(s, "reward_high")) for s in run.steps]
    return [(x, low, high) for x, low, high in ends if low is not None and high is not None]


def _held_out(run: Run) -> str:
    """Accuracy on held-out problems along the way, where a run measures it."""
    measured = [
        (float(e["step"]), mean)
        for e in run.records_by_kind.get("eval", ())
        if isinstance(e.get("step"), int) and (mean := real(e, "mean")) is not None
    ]
    return lines("held-out accuracy", {"held-out": measured}, low=0.0, high=1.0)


def _answers(shown: list[Record]) -> str:
    rows: list[list[Cell]] = [
        [s.get("prompt"), s.get("text"), real(s, "reward"), s.get("outcome")] for s in shown
    ]
    return table(["problem", "answer", "reward", "outcome"], rows)
