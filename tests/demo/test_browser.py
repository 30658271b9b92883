"""The page in a real Chromium, as its users have it: two of them at once, wrong files, and what is asked of whom."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_page

pytest.importorskip("gradio", reason="pip install -r requirements/demo.txt")
playwright = pytest.importorskip("playwright.sync_api", reason="scripts/check_demo.sh runs these")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)")

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
QUIET += ("--disable-sync", "--disable-quic")
PATIENCE = 120_000
"""Milliseconds, for a machine that does much else; a quiet one needs a second."""


@dataclass
class Server:
    process: subprocess.Popen
    address: str
    home: Path
    """Where it was started, and its home."""
    scratch: Path
    """Its folder for temporary files."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """`shirg demo` with the nano, in an empty home."""
    home, scratch = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("scratch")
    told = {"HOME": str(home), "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    program = "from shirg import cli; cli.main(['demo', '--port', '0'])"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=home, env=os.environ | told, stderr=subprocess.PIPE, text=True
    )
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"open (http://127\.0\.0\.1:\d+)", line):
            yield Server(process, found[1], home, scratch)
            break
    process.kill()
    process.wait()
    assert "open http" in said, said


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=PATIENCE)
        yield browser
        browser.close()


@dataclass
class User:
    """One browser with one page open, and all that it asked for."""

    page: object
    asked: list[str]

    def count(self) -> str:
        """What the picture's caption says first, once it is there."""
        return self.page.locator(".shirg-page strong").inner_text()

    def counts(self, text: str) -> None:
        """Wait until the caption says so."""
        playwright.expect(self.page.locator(".shirg-page strong")).to_have_text(re.compile(text), timeout=PATIENCE)

    def picture(self) -> str:
        return self.page.locator(".shirg-page img").get_attribute("src")

    def name(self) -> str:
        """Of the page that is shown, by the picture's alternative text."""
        return self.page.locator(".shirg-page img").get_attribute("alt").split(":")[0]

    def named(self, name: str) -> None:
        image = self.page.locator(".shirg-page img")
        playwright.expect(image).to_have_attribute("alt", re.compile(f"^{re.escape(name)}:"), timeout=PATIENCE)

    def slide(self, budget: int) -> None:
        """Move the slider as a hand does, without a key pressed or a button touched."""
        self.page.locator("input[type=range]").first.fill(str(budget))

    def upload(self, path: Path) -> None:
        self.page.locator("input[type=file]").last.set_input_files(path)


def visit(browser, server: Server, **options) -> User:
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    user = User(context.new_page(), [])
    user.page.on("request", lambda request: user.asked.append(request.url))
    user.page.goto(server.address)
    user.counts("768 of 2,304 patches kept")
    return user


@pytest.fixture(scope="module")
def user(browser, server):
    return visit(browser, server, viewport={"width": 1280, "height": 900})


def test_slider_and_selectors_change_the_picture_at_once(user):
    before = user.picture()
    user.slide(256)
    user.counts("256 of 2,304 patches kept")
    assert user.picture() != before
    user.slide(2304)
    user.counts("All 2,304 patches kept")
    user.slide(512)
    user.counts("512 of 2,304 patches kept")
    kept = user.picture()
    user.page.get_by_label("Groups").check()
    user.page.locator(".legend .grouped").wait_for()
    assert user.picture() != kept
    user.page.get_by_label("Kept patches").check()
    user.page.locator(".legend .dim").wait_for()
    assert user.picture() == kept


def test_an_answer_fills_in_step_by_step_beside_lowres(user):
    user.page.get_by_role("button", name="Thumbnail 2 of 4").click()
    user.named("Receipt")
    user.page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
            for (const path of ["shirg", "lowres"]) {
                const card = document.querySelector(`.answer.${path}`);
                if (card && card.querySelector(".mask")) window.seen.add(path + card.querySelectorAll(".mask").length);
            } }).observe(document.body, {subtree: true, childList: true, characterData: true}); }"""
    )
    user.page.get_by_role("button", name="Ask", exact=True).click()
    for path in ("shirg", "lowres"):
        assert user.page.locator(f".answer.{path} .text").inner_text().strip()
    seen = user.page.evaluate("[...window.seen]")
    assert "shirg16" in seen and "lowres16" in seen and len(seen) >= 6  # numbers of masks that could be seen
    cells = user.page.locator("table.costs td").all_inner_texts()
    assert cells[:2] == ["513", "729"] and len(cells) == 14 and "..." not in cells
    assert float(cells[12].split()[0]) < float(cells[13].split()[0])  # the cache of 513 tokens and of 729


def test_wrong_and_oversized_files_have_a_notice(user, tmp_path):
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    Image.new("1", (10_000, 8_100)).save(tmp_path / "huge.png")
    before = user.name()
    for file, says in (("notes.txt", "not a PNG"), ("huge.png", "10000x8100 pixels; at most 80000000 are opened")):
        user.upload(tmp_path / file)
        playwright.expect(user.page.get_by_role("alert")).to_contain_text(says, timeout=PATIENCE)
        playwright.expect(user.page.get_by_role("alert")).to_contain_text(file, timeout=PATIENCE)
    assert user.name() == before and "scratch" not in user.page.get_by_role("alert").inner_text()
    with (tmp_path / "large.png").open("wb") as large:
        large.truncate(33 * 2**20)
    user.upload(tmp_path / "large.png")
    user.page.get_by_text("exceed the maximum allowed size").first.wait_for()
    tiny_page(300, 200).save(tmp_path / "mine.png")
    user.upload(tmp_path / "mine.png")
    user.named("mine.png")
    assert user.page.get_by_role("alert").filter(has_text="notes.txt").count() == 0


def test_two_at_once_do_not_see_each_others_pages(browser, server, user, tmp_path):
    other = visit(browser, server, viewport={"width": 390, "height": 844}, color_scheme="dark")
    tiny_page(200, 300).save(tmp_path / "first.png")
    tiny_page(300, 300, "Sum 99").save(tmp_path / "second.png")
    user.upload(tmp_path / "first.png")
    other.upload(tmp_path / "second.png")
    user.named("first.png")
    other.named("second.png")
    user.slide(512)
    user.slide(128)
    other.slide(640)
    user.counts("128 of 2,304")
    other.counts("640 of 2,304")
    assert (user.name(), other.name()) == ("first.png", "second.png")
    assert other.page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing runs over
    other.page.context.close()


def test_nobody_but_this_machine_is_asked(user, server):
    assert len(user.asked) > 20
    assert [url for url in user.asked if not url.startswith((server.address, "data:", "blob:"))] == []


def test_uploads_are_deleted_and_ctrl_c_leaves_nothing(server):
    assert list(server.scratch.glob("shirg-demo-*")) and not list(server.scratch.rglob("*first.png"))
    server.process.send_signal(signal.SIGINT)
    rest = server.process.stderr.read()
    assert server.process.wait(60) == 130 and rest == ""
    assert not list(server.scratch.glob("shirg-demo-*"))
    assert not [path for path in server.home.rglob("*") if path.is_file()]
