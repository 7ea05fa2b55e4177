"""What people see on stderr, and that nothing reaches stdout."""

import logging

import pytest

from evolute.telemetry import configure, progress


@pytest.fixture(autouse=True)
def _as_it_was():
    logger = logging.getLogger("evolute")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    for handler in set(logger.handlers) - set(before[0]):
        handler.close()
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_logs_go_to_stderr_from_the_level_on(capsys):
    configure("info")
    logging.getLogger("evolute.engine").info("weights %s", "loaded")
    logging.getLogger("evolute.engine").debug("a request")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and "INFO evolute.engine: weights loaded" in err


def test_a_file_gets_the_details(tmp_path, capsys):
    configure("warning", tmp_path / "deep" / "run.log")
    logging.getLogger("evolute.engine").debug("a request")
    assert "a request" in (tmp_path / "deep" / "run.log").read_text()
    assert capsys.readouterr().err == ""


def test_configuring_twice_does_not_say_things_twice(capsys):
    configure("info")
    configure("info")
    logging.getLogger("evolute").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_an_unknown_level_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        configure("warnign")


def test_a_log_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        configure("info", tmp_path / "file" / "run.log")


def test_without_a_terminal_the_first_and_the_last_are_lines(capsys):
    with progress("train", 3) as bar:
        for done in (1, 2, 3):
            bar.advance(done, f"reward 0.{done}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["train: 1/3 reward 0.1", "train: 3/3 reward 0.3"]


def test_progress_that_is_not_shown_says_nothing(capsys):
    with progress("train", 1, is_shown=False) as bar:
        bar.advance(1)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_note_with_brackets_is_shown_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress("train", 2) as bar:
        bar.advance(2, "[bold]x[/nonsense]")
    assert "[bold]x[/nonsense]" in capsys.readouterr().err
