"""The docs are true: links lead somewhere, rooms and verbs are told of, references are fresh."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "evolute"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")]
)
ROOMS = sorted(path.parent.name for path in SRC.glob("*/__init__.py"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generator()


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def broken_links(page, text):
    """Relative links of a page that lead to no file, or to no heading in it."""
    broken = []
    for link in LINK.findall(without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


def anchors(text):
    """Headings as links name them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def missing_files(text):
    """Paths in code spans that look like files of this repository and are none."""
    named = [s for s in SPAN.findall(text) if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|md|toml)", s)]
    roots = (ROOT, SRC, ROOT / "docs", *(SRC / room for room in ROOMS))
    return [name for name in named if not any((root / name).exists() for root in roots)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    assert missing_files(page.read_text()) == []


def test_a_broken_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A heading: with `code`\n")
    good = "[a](other.md) [b](other.md#a-heading-with-code) [c](https://example.org/x)"
    assert broken_links(page, good) == []
    assert broken_links(page, "[a](gone.md) [b](other.md#none)") == ["gone.md", "other.md#none"]


def test_a_file_that_is_gone_would_be_found():
    assert missing_files("`docs/generate.py` `telemetry/trace.py` `engine/gone.py` `a/b`") == [
        "engine/gone.py"
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page_or_a_place_in_the_architecture(room):
    page = ROOT / "docs" / f"{room}.md"
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    assert page.exists() or re.search(rf"`{room}[`/]", architecture)


def test_every_verb_is_told_of():
    from evolute.cli.main import VERBS

    by_hand = [page for page in PAGES if "reference" not in page.parts]
    text = "\n".join(page.read_text() for page in by_hand)
    assert [verb for verb in VERBS if not re.search(rf"\bevolute {verb}\b", text)] == []


def test_no_page_shows_a_verb_that_is_not_there():
    from evolute.cli.main import VERBS

    shown = {
        (page.name, verb)
        for page in PAGES
        for verb in re.findall(r"(?:^ *|`|bin/)evolute ([a-z]+)\b", page.read_text(), re.MULTILINE)
    }
    assert {(page, verb) for page, verb in shown if verb not in VERBS} == set()


@pytest.mark.parametrize("name", ["cli.md", "metrics.md", "rooms.md", "settings.md"])
def test_the_reference_is_fresh(name):
    page = ROOT / "docs" / "reference" / name
    made = getattr(GENERATE, page.stem)()
    assert page.read_text() == GENERATE.NOTE + made, "run `make docs`"


def test_every_setting_is_in_the_reference():
    from evolute.cli.main_job import LoopConfig
    from evolute.types.settings import keys

    text = GENERATE.settings()
    assert [key for key in keys(LoopConfig) if f"| `{key}` |" not in text] == []


def test_a_settings_note_is_its_own_and_not_its_neighbours():
    text = GENERATE.settings()
    assert re.search(r"\| `train\.max_new_tokens` .* \| 0: the task's own \|", text)
    assert re.search(r"\| `train\.model` .* \|  \|", text)


def test_the_command_line_is_shown_verb_by_verb():
    from evolute.cli.main import VERBS

    text = GENERATE.cli()
    assert [v for v in VERBS if f"```\nUsage: evolute {v} " not in text] == []
    assert text.count("## evolute") == text.count("Usage: evolute") > len(VERBS)
    assert text.count("--help ") == text.count("Usage: evolute")


def test_the_command_line_is_the_same_in_any_terminal(monkeypatch):
    before = GENERATE.cli()
    for name, value in (("COLUMNS", "40"), ("FORCE_COLOR", "1"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    assert GENERATE.cli() == before
    assert "\x1b" not in before and str(ROOT) not in before


def test_a_metric_is_named_after_the_room_that_declares_it():
    for module in GENERATE.declaring_modules():
        room = module.split(".")[1]
        source = (SRC.parent / Path(*module.split("."))).with_suffix(".py").read_text()
        names = re.findall(r'\b(?:counter|gauge|histogram)\(\s*"([^"]+)"', source)
        assert names, f"{module} declares metrics whose names cannot be read"
        assert [name for name in names if name.split("/")[0] != room] == []


def test_the_rules_for_contributors_fit_a_page():
    agents = ROOT / "AGENTS.md"
    assert agents.read_text().count("\n") <= 60
