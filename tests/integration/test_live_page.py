"""The live page in headless Chromium: figures, keyboard, screen reader, keys, absence, widths."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser, Page, find_chromium

from evolute.dashboard.live import live_router
from evolute.engine import Engine
from evolute.models import LoraConfig, LoraWeights
from evolute.server import RunningServer, Tenants, create_app, serve_in_thread
from evolute.testing import until
from evolute.types import GenerateRequest, SamplingParams

IMAGES = Path(__file__).parents[2] / "docs" / "images"
HOSTILE = "<img src=x onerror=document.title='taken'>"
SYSTEM = tuple(b"You are a careful assistant. Answer in one sentence and name your source. ")
TOPICS = [tuple(text.encode()) for text in ("Weather: ", "Travel, trains: ", "Law: ", "Code: ")]
LIVE = "document.getElementById('state').textContent === 'Live'"
CONTRAST = """
(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (c) => {
    const line = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.map((v) => line(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (at) => {
    for (; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const at = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || at.closest('svg,script,style,noscript,.skip')) continue;
    if (!at.getClientRects().length) continue;
    const [a, b] = [light(parse(getComputedStyle(at).color).slice(0, 3)), light(ground(at))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([at.tagName, walk.currentNode.data.trim().slice(0, 30), ratio]);
  }
  return poor;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(find_chromium(), tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def busy() -> Iterator[Engine]:
    """An engine in the middle of work and paused there: some run, some wait, much is cached."""
    with Engine("tiny", max_running=6, page_size=4, memory_mb=2, policy="vtc") as engine:
        for seed, name in enumerate(["french-law", "house-style", "old-experiment"]):
            weights = LoraWeights.init(LoraConfig(rank=4), engine.model_config, seed)
            for _, b in weights.tensors.values():
                b.normal_(std=0.05, generator=torch.Generator().manual_seed(seed))
            engine.load_adapter(name, weights)
        thread = threading.Thread(target=asyncio.run, args=(_work(engine),))
        thread.start()
        until(lambda: engine.stats().counts.finished >= 28 and engine.stats().waiting > 4)
        time.sleep(0.05)
        engine.pause()
        yield engine
        engine.resume()
        engine.abort_all()
        thread.join(30)


@pytest.fixture(scope="module")
def server(busy: Engine) -> Iterator[RunningServer]:
    with serve(busy) as server:
        yield server


def serve(engine: Engine, port: int = 0, **settings: Any) -> RunningServer:
    router = live_router(engine)
    app = create_app(engine, served_names=["tiny"], extra_routers=[router], **settings)
    return serve_in_thread(app, port=port)


async def _work(engine: Engine) -> None:
    """Short requests that end, then long ones of which some must wait."""

    async def ask(i: int, size: int, tenant: str, adapter: str | None = None) -> None:
        prompt = SYSTEM + TOPICS[i % 4] + tuple(f"Question {i}: why?".encode())
        sampling = SamplingParams(max_new_tokens=size, temperature=1, seed=i, ignore_eos=True)
        await engine.agenerate(
            GenerateRequest(prompt, sampling, adapter, tenant=tenant, id=f"{tenant}-{i}")
        )

    names = ["interactive", "rollouts", "nightly", "evals"]
    await asyncio.gather(
        *(ask(i, 24, names[i % 4], "french-law" if i % 3 == 0 else None) for i in range(28))
    )
    await asyncio.gather(
        *(ask(100 + i, 3000, names[i % 4], [None, "house-style", None][i % 3]) for i in range(14))
    )


def rows(page: Page, table: str) -> list[list[str]]:
    found = page.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')].map((row) =>"
        " [...row.cells].map((cell) => cell.textContent))"
    )
    return [list(row) for row in found]


def test_what_it_shows_is_what_the_engine_says(
    browser: Browser, server: RunningServer, busy: Engine
) -> None:
    page = browser.open(server.url)
    page.wait_for(LIVE)
    snapshot = busy.snapshot()
    running, waiting = rows(page, "running"), rows(page, "waiting")
    assert len(running) == snapshot.num_running == 6 and len(waiting) == snapshot.num_waiting == 8
    assert all("least served tenant first" in row[-1] for row in waiting)
    assert "engine.max_running" in page.evaluate("document.getElementById('limit').textContent")
    pages = [int(row[1].replace(",", "")) for row in rows(page, "memory-table")]
    assert sum(pages) == snapshot.memory.num_pages and pages[-1] == snapshot.memory.free
    assert pages[0] == snapshot.memory.own > 0 and pages[1] == snapshot.memory.pinned > 0
    tree = rows(page, "tree-table")
    assert len(tree) == len(snapshot.memory.tree.branches) > 8
    blocks = page.evaluate("document.querySelectorAll('#tree rect.held, #tree rect.idle').length")
    assert 8 < blocks <= len(tree)
    assert {row[2] for row in rows(page, "adapter-table")} == {"resident", "host memory"}
    recent = rows(page, "recent-table")
    assert len(recent) == 28 and any("engine.max_running" in row[4] for row in recent)
    assert {row[0] for row in rows(page, "tenant-table")} == {
        *("interactive", "rollouts", "nightly", "evals")
    }
    assert page.evaluate("document.title") == "6 running, 8 waiting - Evolute"
    assert page.problems == []
    elsewhere = [url for url in page.requests if not url.startswith((server.url, "data:"))]
    assert elsewhere == []


def test_names_that_are_markup_stay_text(browser: Browser) -> None:
    with Engine("tiny") as engine, serve(engine) as server:
        request = GenerateRequest((1, 2), SamplingParams(max_new_tokens=1), tenant=HOSTILE)
        asyncio.run(engine.agenerate(request))
        page = browser.open(server.url)
        page.wait_for(LIVE)
        assert [row[1] for row in rows(page, "recent-table")] == [HOSTILE]
        assert page.evaluate("document.images.length") == 0
        assert page.evaluate("document.title") == "0 running, 0 waiting - Evolute"


def test_it_goes_on_by_itself_and_changes_only_what_changed(
    browser: Browser, server: RunningServer
) -> None:
    page = browser.open(server.url)
    page.wait_for(LIVE)
    page.evaluate(
        "window.said = 0; new MutationObserver(() => window.said++).observe("
        "document.getElementById('state'), {childList: true, characterData: true, subtree: true});"
        "window.row = document.querySelector('#running tbody').rows[0].cells[0]"
    )
    asked = len(page.requests)
    page.wait_for("performance.getEntriesByType('resource').length >= 4")
    assert 2 <= len(page.requests) - asked <= 5
    assert page.evaluate("window.said") == 0, "a screen reader would hear every refresh"
    first = "document.querySelector('#running tbody').rows[0].cells[0]"
    assert page.evaluate(f"window.row === {first}"), "a refresh would take the focus away"


def test_the_keyboard_reaches_everything_in_order_and_pauses(
    browser: Browser, server: RunningServer
) -> None:
    page = browser.open(server.url)
    page.wait_for(LIVE)
    seen = []
    for _ in range(8):
        page.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 11)"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", f"the focus on {seen[-1]!r} cannot be seen"
    assert seen[:4] == ["Skip to the", "Pause Alt+P", "Queues", "Throughput"]
    page.press("Alt+P")
    page.wait_for("document.getElementById('state').textContent === 'Paused'")
    asked = page.evaluate("performance.getEntriesByType('resource').length")
    time.sleep(1.5)
    assert page.evaluate("performance.getEntriesByType('resource').length") == asked
    page.evaluate("document.getElementById('pause').focus()")
    page.press("Space")
    page.wait_for(LIVE)


def test_a_screen_reader_finds_landmarks_names_and_no_bare_picture(
    browser: Browser, server: RunningServer
) -> None:
    page = browser.open(server.url)
    page.wait_for(LIVE)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    nodes = page.nodes()
    by_role: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        by_role.setdefault(node["role"], []).append(node)
    assert {"main", "banner", "navigation", "contentinfo", "status"} <= by_role.keys()
    for role in ("image", "img", "table", "button", "region", "navigation", "link", "heading"):
        assert all(node["name"] for node in by_role.get(role, [])), f"a {role} has no name"
    pictures = by_role.get("image", []) + by_role.get("img", [])
    assert len(pictures) == 4
    assert len(by_role["table"]) == 8
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].filter((h) =>"
        " h.getClientRects().length).map((h) => Number(h.tagName[1]))")  # fmt: skip
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_can_be_read_narrow_and_wide_light_and_dark(
    browser: Browser,
    server: RunningServer,
    request: pytest.FixtureRequest,
    scheme: str,
    width: int,
) -> None:
    page = browser.open(server.url)
    page.resize(width, 900)
    page.emulate("prefers-color-scheme", scheme)
    page.wait_for(LIVE)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter((b) => b.getClientRects().length"
        " && b.getBoundingClientRect().height < 44).map((b) => b.textContent)"
    )
    assert small == []
    is_shown = (scheme, width) in (("light", 1280), ("dark", 360))
    if is_shown and request.config.getoption("--update-screenshots"):
        page.screenshot(IMAGES / f"dashboard-{scheme}-{width}.png", height=3600)


def test_it_moves_only_for_those_who_do_not_mind(browser: Browser, server: RunningServer) -> None:
    page = browser.open(server.url)
    style = "getComputedStyle(document.documentElement).scrollBehavior"
    page.emulate("prefers-reduced-motion", "reduce")
    assert page.evaluate(style) == "auto"
    page.emulate("prefers-reduced-motion", "no-preference")
    assert page.evaluate(style) == "smooth"


def test_a_hidden_tab_asks_rarely_and_says_so(browser: Browser, server: RunningServer) -> None:
    page = browser.open(server.url)
    page.wait_for(LIVE)
    hide = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
    change = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide.format("true") + change)
    state = "document.getElementById('state').textContent"
    page.wait_for(f"{state} === 'Hidden: refreshing every 15 s'")
    time.sleep(0.3)
    asked = page.evaluate("performance.getEntriesByType('resource').length")
    time.sleep(1.5)
    assert page.evaluate("performance.getEntriesByType('resource').length") == asked
    page.evaluate(hide.format("false") + change)
    page.wait_for(LIVE)


def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(browser: Browser, busy: Engine) -> None:
    with serve(busy, tenants=Tenants.of(["rollouts=r-key"])) as guarded:
        page = browser.open(guarded.url)
        page.wait_for("document.activeElement.id === 'key'")
        assert page.evaluate("document.getElementById('figures').hidden")
        page.type("wrong")
        page.press("Enter")
        page.wait_for("document.getElementById('state').textContent.includes('does not know')")
        page.wait_for("document.activeElement.id === 'key'")
        page.type("r-key")
        page.press("Enter")
        page.wait_for(LIVE)
        assert {row[1] for row in rows(page, "recent-table")} == {"rollouts"}
        assert "tenant rollouts" in page.evaluate("document.getElementById('whose').textContent")
        page.go(guarded.url)
        page.wait_for(LIVE)
        page.evaluate("document.getElementById('forget').click()")
        page.wait_for("!document.getElementById('key-form').hidden")
        assert page.evaluate("sessionStorage.length") == 0
        assert page.problems == []


def test_a_server_that_goes_away_is_told_once_and_found_again(
    browser: Browser, busy: Engine
) -> None:
    first = serve(busy)
    page = browser.open(first.url)
    page.wait_for(LIVE)
    port = int(first.url.rpartition(":")[2])
    first.stop()
    state = "document.getElementById('state').textContent"
    page.wait_for(f"{state} === 'No news: the server does not answer. Trying again.'")
    page.wait_for("document.getElementById('when').textContent.includes('next try in 2 s')")
    assert "are old" in page.evaluate("document.getElementById('when').textContent")
    with serve(busy, port):
        page.wait_for(LIVE)
