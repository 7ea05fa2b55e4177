"""Figures of records that were made up: what is counted, from when, and what is not."""

import pytest

from evolute.bench.load import LoadRound, Record, Slo
from evolute.bench.load.figures import figures, gaps, latency, notes, tpot, ttft
from evolute.types import ConfigError


def record(name="a", due=0.0, tokens=(1.0, 1.5, 2.0), **fields):
    usual = {
        "sent_s": due,
        "token_s": list(tokens),
        "end_s": tokens[-1] if tokens else due,
        "prompt_tokens": 10,
        "output_tokens": len(tokens),
        "has_usage": True,
    }
    return Record(name, fields.pop("tenant", "default"), None, fields.pop("program", ""), due,
                  **(usual | fields))  # fmt: skip


def taken(*records, lag=(0.0,), cpu_s=0.0, planned=None, interrupted=False):
    seconds = max((r.end_s for r in records), default=0.0)
    return LoadRound(records, seconds, lag, cpu_s, planned or len(records), interrupted)


def failed(kind="http_503", due=0.0, end=0.1):
    return record("bad", due, (), error=kind, detail="why", end_s=end, output_tokens=0)


def test_times_count_from_the_moment_a_request_was_due():
    late = record(due=0.5, sent_s=0.9)
    assert (ttft(late), latency(late)) == (0.5, 1.5)
    assert tpot(late) == 0.5 and list(gaps(late)) == [0.5, 0.5]
    assert figures(taken(late), Slo())["generator/late_p99_s"] == pytest.approx(0.4)


def test_pieces_of_several_tokens_are_shared_out():
    assert tpot(record(tokens=(1.0, 2.0), output_tokens=5)) == 0.25
    assert figures(taken(record(output_tokens=6)), Slo())["tokens_per_piece"] == 2
    assert tpot(record(tokens=(1.0,), output_tokens=9)) is None
    assert tpot(record(tokens=(1.0,))) is None and ttft(record(tokens=())) is None


def test_throughput_is_of_answers_and_the_time_is_of_everything():
    found = figures(taken(record(), record(due=1.0, tokens=(2.0, 4.0)), failed(end=5.0)), Slo())
    assert (found["requests"], found["answered"], found["failed"]) == (3, 2, 1)
    assert found["seconds"] == 5.0
    assert found["output_tokens_per_s"] == 5 / 5
    assert found["total_tokens_per_s"] == 25 / 5
    assert found["requests_per_s"] == 2 / 5
    assert found["errors/http_503"] == 1


def test_percentiles_are_of_answered_requests():
    fast = [record(tokens=(0.1 * i, 5.0)) for i in range(1, 101)]
    found = figures(taken(*fast, failed(end=0.001)), Slo())
    parts = [found[f"ttft_{p}_s"] for p in ("p50", "p90", "p95", "p99")]
    assert parts == pytest.approx([5.0, 9.0, 9.5, 9.9])


def test_goodput_counts_a_failure_as_a_miss():
    good, slow = record(), record(tokens=(3.0, 3.5, 4.0))
    found = figures(taken(good, slow, failed(), failed()), Slo(ttft_s=2.0))
    assert found["good_frac"] == 0.25 and found["goodput_per_s"] == 1 / 4
    assert "good_frac" not in figures(taken(good), Slo())


@pytest.mark.parametrize(
    ("slo", "is_good"),
    [
        (Slo(ttft_s=1.0), True),
        (Slo(ttft_s=0.99), False),
        (Slo(tpot_s=0.5), True),
        (Slo(tpot_s=0.4), False),
        (Slo(latency_s=2.0), True),
        (Slo(latency_s=1.9), False),
        (Slo(ttft_s=9.0, tpot_s=0.4), False),
    ],
)
def test_every_limit_that_is_given_must_hold(slo, is_good):
    assert slo.holds(record()) is is_good


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="ttft_s is 0"):
        Slo(ttft_s=0.0)


def test_tenants_are_told_apart_when_there_are_several():
    found = figures(
        taken(record(tenant="ann"), record(tenant="bob", tokens=(3.0, 4.0)),
              record(tenant="bob", tokens=(), error="timeout", end_s=4.0)), Slo(ttft_s=2.0)
    )  # fmt: skip
    assert found["tenant/ann/ttft_p50_s"] == 1 and found["tenant/bob/ttft_p50_s"] == 3
    assert found["tenant/bob/requests"] == 2 and found["tenant/bob/failed"] == 1
    assert found["tenant/ann/total_tokens_per_s"] == 13 / 4
    assert (found["tenant/ann/good_frac"], found["tenant/bob/good_frac"]) == (1, 0)
    assert not any(name.startswith("tenant/") for name in figures(taken(record()), Slo()))


def test_a_program_is_over_with_its_last_call_and_spoilt_by_one_failure():
    p = [record("1", program="p"), record("2", due=2.0, tokens=(3.0, 4.0), program="p")]
    q = [record("3", program="q"), record("4", program="q", error="timeout")]
    found = figures(taken(*p, *q), Slo())
    assert found["program_p50_s"] == 4.0 and found["programs_per_s"] == 1 / 4


def test_nothing_answered_has_no_latencies_and_is_no_crash():
    found = figures(taken(failed()), Slo())
    assert found["answered"] == 0 and "ttft_p50_s" not in found
    assert figures(taken(), Slo())["requests"] == 0


def test_notes_say_what_a_reader_must_know():
    assert notes([taken(record())], Slo()) == []
    told = notes([taken(failed(), failed("timeout"), failed())], Slo())
    assert told[0].startswith("2 failed, http_503") and "why" in told[0]
    assert "1 failed, timeout" in told[1]
    (told,) = notes([taken(record(has_usage=False))], Slo())
    assert "without usage" in told
    (told,) = notes([taken(record(output_tokens=2))], Slo())
    assert "more pieces than the tokens" in told
    (told,) = notes([taken(record(output_tokens=9))], Slo())
    assert "3.0 tokens" in told
    refused = record("bad", 0.0, (), error="http_422", detail="unexpected ignore_eos")
    assert notes([taken(refused)], Slo())[0].endswith("Add --no-ignore-eos.")
    (told,) = notes([taken(record(), planned=9, interrupted=True)], Slo())
    assert "after 1 of 9" in told


def test_an_overloaded_generator_says_so():
    lagging = notes([taken(record(), lag=(0.0,) * 50 + (0.05,) * 50)], Slo())
    assert "50 ms late" in lagging[0]
    busy = notes([taken(record(), cpu_s=1.9)], Slo())
    assert "95% of a core" in busy[0]
