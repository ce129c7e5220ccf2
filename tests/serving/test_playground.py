"""The playground in a real browser: asks both models, shows both answers, reaches for nothing outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Served
from media_files import make_png, make_wav

from trimodal.serving.http.app import make_app
from trimodal.serving.http.playground_routes import list_playground_routes
from trimodal.serving.limits import Limits
from trimodal.serving.served_model import open_served
from trimodal.serving.service import Service

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
MEDIA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def page(served_folders: dict[str, Path]) -> Iterator[tuple[sync_api.Page, list[str]]]:
    """The page of a service with two CLIPs and a Whisper, and what it complains about."""
    models = [open_served(served_folders["clip"], "original"), open_served(served_folders["clip"], "small"),
              open_served(served_folders["whisper"], "hears")]  # fmt: skip
    service = Service(models, Limits(), decoders=1)
    served = Served(make_app(service, further=list_playground_routes()), service=service)
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *MEDIA])
        opened, complaints = browser.new_page(), list[str]()
        opened.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith((served.url, "blob:")) else None)
        opened.goto(f"{served.url}/")
        yield opened, complaints
        browser.close()
    served.close()


def test_one_question_to_two_models(page: tuple[sync_api.Page, list[str]], tmp_path: Path) -> None:
    opened, complaints = page
    opened.wait_for_selector("#models tbody tr:nth-child(3)")
    (tmp_path / "image.png").write_bytes(make_png())
    opened.click("#task-classify")
    opened.set_input_files("#image", tmp_path / "image.png")
    opened.fill("#labels", "old\nwhat")
    opened.click("#ask")
    opened.wait_for_selector("article:nth-child(2) .verdict.good")
    cards = opened.query_selector_all("article")
    assert len(cards) == 2 and all("old" in card.inner_text() and "%" in card.inner_text() for card in cards)
    assert "the same answer, 0.0 points apart" in cards[1].inner_text()
    assert not complaints


def test_a_recorded_sound_is_transcribed(page: tuple[sync_api.Page, list[str]]) -> None:
    opened, complaints = page
    opened.click("#task-transcribe")
    opened.click("#record")
    opened.wait_for_timeout(400)
    opened.click("#record")
    opened.wait_for_selector("#audio-played:not([hidden])")
    opened.click("#ask")
    opened.wait_for_selector("article .spoken")
    assert not complaints


def test_a_bad_file_is_told(page: tuple[sync_api.Page, list[str]], tmp_path: Path) -> None:
    opened, _ = page
    opened.click("#task-transcribe")
    (tmp_path / "broken.wav").write_bytes(make_wav()[:30])
    opened.set_input_files("#audio", tmp_path / "broken.wav")
    opened.wait_for_selector("#said.bad")
    assert "cannot read" in opened.inner_text("#said")


def test_it_can_be_used_without_a_mouse(page: tuple[sync_api.Page, list[str]]) -> None:
    opened, _ = page
    opened.focus("[role=tab][aria-selected=true]")
    before = opened.inner_text("[role=tab][aria-selected=true]")
    opened.keyboard.press("ArrowRight")
    assert opened.inner_text("[role=tab][aria-selected=true]") != before
    unnamed = opened.evaluate(
        "[...document.querySelectorAll('input, textarea, button')].filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim()"
        " || e.getAttribute('aria-label'))).map(e => e.id)"
    )
    assert unnamed == []
