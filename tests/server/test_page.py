"""The page in a real Chromium: drop, find, play in sync, index a folder; by keyboard, on a phone, for screen readers."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FileChooser, Page, expect

from cmmixer.config import ServeSettings
from cmmixer.media.decode import Film
from cmmixer.server import jobs as jobs_module
from cmmixer.server.service import Service
from tests.server.conftest import NASTY, make_data, make_index
from tests.support.browser import PHONE, drop, listen, running, shot
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, film, sound
from tests.support.exotic_formats import exotic_film, exotic_sound

TOKEN = "a-token-of-more-than-16-characters"
SECONDS_MS = 20_000
# At most this far apart while they play: less than a frame and a half of a film.
IN_SYNC_SECONDS = 0.06


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library, and a folder beside it that is not in it."""
    folder = tmp_path_factory.mktemp("page")
    make_index(make_data(folder / "data"), folder / "library")
    for number in range(5):
        film(folder / "more" / "holiday" / f"{number}.mp4", [RED] * 2)
    (folder / "more" / "holiday" / "broken.mp4").write_bytes(b"no film")
    return folder


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    settings = ServeSettings(index=str(place / "library"), roots=str(place / "more"), workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page as it is first seen; nothing may go wrong on it."""
    yield from _open(browser, address)


@pytest.fixture
def phone(browser: Browser, address: str) -> Iterator[Page]:
    yield from _open(browser, address, **PHONE)


def _open(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": {"width": 1380, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(SECONDS_MS)
    faults = listen(page)
    page.goto(address)
    expect(page.locator(".suggestion").first).to_be_visible()
    yield page
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A silent film that turns from green to blue after three seconds."""
    return film(tmp_path_factory.mktemp("cut") / "my cut.mp4", [GREEN] * 3 + [BLUE] * 3, sound=None)


@pytest.fixture(scope="module")
def bell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound that goes with blue."""
    return sound(tmp_path_factory.mktemp("bell") / "bell.wav", [BLUE] * 4)


def _times(page: Page) -> dict[str, float]:
    return page.evaluate(
        """() => { const [picture, sound] = [document.getElementById("picture"), document.getElementById("sound")];
          return { picture: picture.currentTime, sound: sound.currentTime, drift: Number(document.getElementById("stage").dataset.drift),
                   playing: !picture.paused && !sound.paused, muted: picture.muted }; }"""
    )


def _in_sync(page: Page) -> dict[str, float]:
    """Waits until both run and agree; gives where they are."""
    deadline = time.monotonic() + SECONDS_MS / 1000
    while time.monotonic() < deadline:
        times = _times(page)
        if times["playing"] and 0 < abs(times["drift"]) < IN_SYNC_SECONDS:
            return times
        time.sleep(0.02)
    raise AssertionError(f"never in sync: {times}")


def _shows(page: Page, width: int) -> None:
    """Waits until there is a picture so many pixels wide."""
    deadline = time.monotonic() + SECONDS_MS / 1000
    while (got := page.evaluate("document.getElementById('picture').videoWidth")) != width:
        assert time.monotonic() < deadline, f"the picture is {got} pixels wide"
        time.sleep(0.05)


def _serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']} ({one['nodes'][0]['html'][:120]})"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_drop_a_film_hear_what_fits_in_sync_and_take_it(page: Page, cut: Path, place: Path, tmp_path: Path) -> None:
    shot(page, "start")
    drop(page, cut, "video/mp4")
    hits = page.locator(".hit")
    expect(hits.first).to_be_visible()
    expect(page.locator("#asked-name")).to_have_text("my cut.mp4")
    expect(page.locator("#asked-facts")).to_have_text("6.0 s, picture only")
    expect(page.locator("#finds-title")).to_contain_text(re.compile(r"\d+ sounds"))
    # A name that is markup is shown as it is.
    nasty = page.locator(".hit", has_text="<img src=x onerror=alert(1)>").first
    expect(nasty).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    expect(nasty.locator("canvas")).to_have_attribute("data-drawn", "true")
    nasty.locator(".hit-play").click()
    times = _in_sync(page)
    # The blue sound is laid under the film where it is blue, not under its beginning.
    assert times["picture"] > 2.4
    assert times["muted"]
    expect(page.locator("#sync-badge")).to_contain_text("in sync")
    expect(page.locator("#now")).to_contain_text("under your picture from 0:0")
    shot(page, "playing")
    later = _in_sync(page)
    assert later["sound"] - times["sound"] == pytest.approx(
        later["picture"] - times["picture"], abs=2 * IN_SYNC_SECONDS
    )
    page.locator("#play").click()
    expect(page.locator("#stage")).to_have_attribute("data-state", "paused")
    with page.expect_download() as written:
        page.locator("#take").click()
    assert written.value.suggested_filename.startswith("my cut with ")
    written.value.save_as(tmp_path / "written.mp4")
    with Film.open(tmp_path / "written.mp4") as made:
        assert made.info.duration_seconds == pytest.approx(6.0, abs=0.1)
        assert made.info.picture is not None
        assert made.info.sound is not None
    expect(page.locator(".toast")).to_contain_text("its picture untouched")
    with page.expect_download() as saved:
        nasty.locator(".download").click()
    saved.value.save_as(tmp_path / "saved.wav")
    assert (tmp_path / "saved.wav").read_bytes() == (place / "data" / "sounds" / NASTY).read_bytes()


def test_drop_a_sound_and_see_what_makes_it(page: Page, bell: Path) -> None:
    drop(page, bell, "audio/wav")
    first = page.locator(".hits.pictures .hit").first
    expect(first).to_contain_text("mixed")
    expect(first.locator("img")).to_be_visible()
    expect(page.locator("input[name=by][value=video]")).to_be_disabled()
    first.locator(".hit-play").click()
    times = _in_sync(page)
    assert 3.0 <= times["picture"] < 8.0
    assert times["muted"]
    expect(page.locator("#now")).to_contain_text("with your sound from 0:0")
    shot(page, "pictures")


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_browser_does_not_play_is_converted(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """By what the service knows of browsers; and where it is wrong, when the browser says so or shows no picture."""
    if refused:
        monkeypatch.setattr("cmmixer.server.playback.plays_as_it_is", lambda info, sense: True)
    exotic_film(tmp_path / "data" / "green.avi", [GREEN] * 4, "avi")
    exotic_sound(tmp_path / "data" / "blue.aiff", [GREEN] * 2 + [BLUE] * 4, "aiff")
    make_index(tmp_path / "data", tmp_path / "library")
    settings = ServeSettings(index=str(tmp_path / "library"), workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address:
        context = browser.new_context(viewport={"width": 1380, "height": 900})
        page = context.new_page()
        page.set_default_timeout(SECONDS_MS)
        page.goto(address)
        # Its sound alone would play in this browser, without a word about the picture.
        page.set_input_files("#pick", exotic_film(tmp_path / "cut", [GREEN] * 2 + [BLUE] * 2, "mov-aac"))
        _shows(page, 64)
        page.locator(".hit", has_text="blue").first.locator(".hit-play").click()
        times = _in_sync(page)
        assert times["picture"] > 1.4
        assert times["sound"] > 1.4
        expect(page.locator("#screen-note")).to_be_hidden()
        shot(page, "converted" if refused else "converted-at-once")
        # And the other way round: a picture of the library under a sound.
        page.set_input_files("#pick-again", exotic_sound(tmp_path / "bell.au", [GREEN] * 2, "au"))
        expect(page.locator("#asked-name")).to_have_text("bell.au")
        page.locator(".hits.pictures .hit", has_text="green").first.locator(".hit-play").click()
        _in_sync(page)
        _shows(page, 64)
        context.close()


def test_of_a_long_film_the_stretch_that_matches_is_played(browser: Browser, tmp_path: Path) -> None:
    sound(tmp_path / "data" / "blue.wav", [BLUE] * 4)
    make_index(tmp_path / "data", tmp_path / "library")
    settings = ServeSettings(index=str(tmp_path / "library"), workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address:
        context = browser.new_context(viewport={"width": 1380, "height": 900})
        page = context.new_page()
        page.set_default_timeout(SECONDS_MS)
        page.goto(address)
        page.set_input_files("#pick", exotic_film(tmp_path / "day.avi", [RED] * 80 + [BLUE] * 6, "avi"))
        page.locator(".hit").first.locator(".hit-play").click()
        times = _in_sync(page)
        # The version begins ten to twenty seconds before what matches, so second 81 of the film is second 11 of it.
        assert 9.4 < times["picture"] < 17
        expect(page.locator("#now")).to_contain_text("(a version for this browser, from 1:10.0)")
        expect(page.locator("#clock")).to_have_text(re.compile(r"^1:2\d\.\d / 1:2\d\.\d$"))
        assert float(page.locator("#seek").get_attribute("min") or 0) == 70.0
        page.locator("#to-match").click()
        expect(page.locator("#clock")).to_have_text(re.compile(r"^1:(19|2\d)"))
        shot(page, "converted-stretch")
        context.close()


def test_levels_shift_and_loop(page: Page, cut: Path) -> None:
    page.set_input_files("#pick", cut)
    page.locator(".hit-play").first.click()
    _in_sync(page)
    page.locator("#later").click()
    page.locator("#later").click()
    expect(page.locator("#nudge")).to_have_text("+40 ms")
    times = _in_sync(page)
    expected = page.evaluate(
        "[document.getElementById('picture').currentTime, document.getElementById('sound').currentTime]"
    )
    assert times["playing"]
    assert expected[1] >= 0
    page.locator("#level-own").fill("0.5")
    assert page.evaluate("[document.getElementById('picture').muted, document.getElementById('picture').volume]") == [
        False,
        0.5,
    ]
    page.locator("#loop").click()
    expect(page.locator("#loop")).to_have_attribute("aria-pressed", "true")
    time.sleep(2.5)
    assert _times(page)["playing"]


def test_more_like_this_and_back(page: Page, cut: Path) -> None:
    page.set_input_files("#pick", cut)
    first = page.locator(".hit").first
    title = first.locator(".hit-title").inner_text()
    first.locator(".alike").click()
    expect(page.locator("#asked-name")).to_contain_text(title)
    expect(page.locator("#asked-facts")).to_contain_text("the moment at")
    expect(page.locator("input[name=by][value=audio]")).to_be_checked()
    expect(page.locator(".hit").first).to_be_visible()
    page.go_back()
    expect(page.locator("#asked-name")).to_have_text("my cut.mp4")


def test_filters_narrow_what_is_found(page: Page, cut: Path) -> None:
    page.set_input_files("#pick", cut)
    expect(page.locator(".hit").nth(4)).to_be_visible()
    page.locator("#toggle-filters").click()
    page.locator("#filters select[name=label]").select_option("warm")
    expect(page.locator("#filter-count")).to_have_text("1")
    expect(page.locator("#finds-title")).to_contain_text("sounds")
    expect(page.locator(".hit", has_text="green")).to_have_count(0)
    page.locator("#filters input[name=min_seconds]").fill("2.5")
    expect(page.locator(".hit:not(:has-text('red'))")).to_have_count(0)
    expect(page.locator(".hit").first).to_contain_text("red")
    shot(page, "filters")
    page.locator("#filters input[name=min_seconds]").fill("")
    page.locator("#filters label", has_text="camera").locator("select").select_option("camera:B")
    expect(page.locator(".hit", has_text="yellow")).to_have_count(0)
    expect(page.locator("#filter-count")).to_have_text("2")
    expect(page.locator(".hit").first).to_contain_text("red")
    page.locator("#filters label", has_text="camera").locator("select").select_option("")
    page.locator("#filters select[name=label]").select_option("")
    page.locator("#filters label", has_text="split").locator("select").select_option("split:test")
    expect(page.locator(".hit", has_text="red")).to_have_count(0)
    expect(page.locator(".hit", has_text="mixed").first).to_be_visible()
    page.locator("#filters input[name=text]").fill("nothing is called so")
    expect(page.locator(".nothing")).to_have_text("Nothing in the library fits these filters.")
    page.locator("#filters button[type=reset]").click()
    expect(page.locator(".hit").nth(4)).to_be_visible()


def test_a_strip_tells_which_part_goes_with_what(page: Page, cut: Path, tmp_path: Path) -> None:
    page.set_input_files("#pick", cut)
    stretches = page.locator("#timeline .stretch")
    expect(stretches.first).to_be_visible()
    blue = stretches.last
    blue.hover()
    expect(page.locator("#timeline-told")).to_have_text(re.compile(r"0:0\d\.\d – 0:06\.0: .+ at 0:0\d\.\d"))
    shot(page, "timeline")
    page.locator("#loop").focus()
    stretches.first.focus()
    page.keyboard.press("ArrowRight")
    expect(stretches.nth(1)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(stretches.nth(1)).to_be_focused()
    for _ in range(stretches.count() - 2):
        page.keyboard.press("ArrowRight")
    expect(blue).to_be_focused()
    page.keyboard.press("Enter")
    expect(blue).to_have_class(re.compile("loaded"))
    assert _in_sync(page)["picture"] > 2.4
    assert _serious(page) == []
    shot(page, "timeline-playing")
    page.set_input_files("#pick-again", sound(tmp_path / "short.wav", [BLUE]))
    expect(page.locator("#asked-name")).to_have_text("short.wav")
    expect(page.locator(".hit").first).to_be_visible()
    expect(page.locator("#timeline")).to_be_hidden()


def test_by_keyboard_alone(page: Page, cut: Path) -> None:
    # Listened for from the start: the browser is told so beside the keys, and may hear of it after them.
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "pick":
            break
    else:
        pytest.fail("the file cannot be reached with Tab")
    page.keyboard.press("Enter")
    deadline = time.monotonic() + SECONDS_MS / 1000
    while not choosers and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert len(choosers) == 1
    choosers[0].set_files(cut)
    hits = page.locator(".hit")
    expect(hits.first).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    current = page.locator(".hit.current")
    expect(current.locator(".hit-play")).to_be_focused()
    page.keyboard.press("Enter")
    expect(current).to_have_class(re.compile("loaded"))
    _in_sync(page)
    page.keyboard.press("Space")
    expect(page.locator("#stage")).to_have_attribute("data-state", "paused")
    page.keyboard.press("Space")
    expect(page.locator("#stage")).to_have_attribute("data-state", "playing")
    page.keyboard.press(".")
    expect(page.locator("#nudge")).to_have_text("+20 ms")
    page.keyboard.press("k")
    expect(page.locator("#kept-count")).to_have_text("1")
    page.keyboard.press("/")
    expect(page.locator("#filters input[name=text]")).to_be_focused()
    page.keyboard.type("k")  # a letter here, no key
    expect(page.locator("#kept-count")).to_have_text("1")
    page.locator("#filters input[name=text]").fill("")
    page.keyboard.press("Tab")
    page.locator("#toggle-filters").focus()
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help-dialog")).to_be_hidden()
    # Only the current find is on Tab's way, so that a list of hundreds is passed in four steps.
    assert page.locator(".hit button:not([tabindex='-1'])").count() <= 3


def test_what_was_kept_is_saved_as_a_table(page: Page, cut: Path, tmp_path: Path) -> None:
    page.set_input_files("#pick", cut)
    for name in ("onerror", "green"):
        page.locator(".hit", has_text=name).first.locator(".keep").click()
    page.reload()
    page.locator("nav [data-view=kept]").click()
    expect(page.locator("#kept-list li")).to_have_count(2)
    with page.expect_download() as saved:
        page.locator("#kept-csv").click()
    saved.value.save_as(tmp_path / "kept.csv")
    with (tmp_path / "kept.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"sounds/{NASTY}", "sounds/green.wav"]
    assert rows[0]["query"] == "my cut.mp4"
    assert float(rows[0]["end_seconds"]) - float(rows[0]["start_seconds"]) == pytest.approx(1.0)
    page.locator("#kept-rate").select_option("24")
    with page.expect_download() as listed:
        page.locator("#kept-edl").click()
    listed.value.save_as(tmp_path / "kept.edl")
    text = (tmp_path / "kept.edl").read_text()
    assert "* FROM CLIP NAME: green.wav" in text
    assert "01:00:01:00" in text
    shot(page, "kept")
    page.locator("#kept-list button").first.click()
    expect(page.locator("#kept-list li")).to_have_count(1)


def test_the_library_in_any_order_and_a_search_from_it(page: Page) -> None:
    page.locator("nav [data-view=library]").click()
    rows = page.locator("#items tr")
    expect(rows).to_have_count(6)
    expect(rows.first).to_contain_text("mixed")
    page.get_by_role("button", name="Length").click()
    expect(rows.first).to_contain_text("mute")
    expect(page.locator("th[aria-sort]")).to_contain_text("Length")
    page.get_by_role("button", name="Length").click()
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    expect(rows.first).to_contain_text("mixed")
    shot(page, "library")
    rows.first.locator("a").click()
    expect(page.locator("#asked-name")).to_contain_text("mixed")
    expect(page.locator(".hit").first).to_be_visible()


def test_index_a_folder_and_watch_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = jobs_module.Job.advance

    def slowly(self: jobs_module.Job, steps: int = 1) -> None:
        advance(self, steps)
        time.sleep(0.25)

    monkeypatch.setattr(jobs_module.Job, "advance", slowly)
    page.locator("#open-folders").click()
    page.locator("#folder-list button", has_text="more").click()
    page.locator("#folder-list button", has_text="holiday").click()
    expect(page.locator("#start-job")).to_be_enabled()
    shot(page, "folders")
    page.evaluate(
        """() => { window.seen = []; const bar = document.getElementById("job-bar");
          new MutationObserver(() => window.seen.push(`${bar.value} of ${bar.max}`)).observe(bar, { attributes: true }); }"""
    )
    page.locator("#start-job").click()
    expect(page.locator("#job-phase")).to_have_text("embedding films")
    shot(page, "indexing")
    expect(page.locator("#job-panel")).to_have_attribute("data-state", "done")
    seen = page.evaluate("window.seen")
    assert len({step for step in seen if step.endswith("of 6")}) >= 4
    expect(page.locator("#job-result")).to_contain_text("5added")
    expect(page.locator(".skips")).to_contain_text("broken.mp4")
    shot(page, "indexed")
    page.keyboard.press("Escape")
    page.locator("nav [data-view=library]").click()
    expect(page.locator("#library-facts")).to_contain_text("8 films")


def test_what_goes_wrong_is_told_on_the_page(browser: Browser, address: str, tmp_path: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SECONDS_MS)
    page.goto(address)
    expect(page.locator(".suggestion").first).to_be_visible()
    (tmp_path / "letter.mp4").write_text("Dear editor, this is no film.")
    page.set_input_files("#pick", tmp_path / "letter.mp4")
    expect(page.locator("#upload-line")).to_contain_text("This file cannot be used")
    expect(page.locator("#upload-line")).to_contain_text("letter.mp4: cannot be decoded")
    shot(page, "problem")
    page.goto(f"{address}/#/search?query={'0' * 24}")
    expect(page.locator("#finds-problem")).to_contain_text("There is no such thing here")
    context.close()


def test_at_phone_width(phone: Page, cut: Path) -> None:
    shot(phone, "phone-start")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.set_input_files("#pick", cut)
    phone.locator(".hit-play").first.tap()
    _in_sync(phone)
    shot(phone, "phone-playing")
    for view in ("library", "kept", "search"):
        phone.locator(f"nav [data-view={view}]").tap()
        # Nothing sticks out to the side.
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.goto(phone.url.split("#")[0] + "#/library")
    expect(phone.locator("#items tr").first).to_be_visible()
    shot(phone, "phone-library")
    assert _serious(phone) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screen_readers_find_nothing_serious(browser: Browser, address: str, cut: Path, scheme: str) -> None:
    opened = _open(browser, address, color_scheme=scheme, reduced_motion="reduce")
    page = next(opened)
    assert _serious(page) == []
    page.set_input_files("#pick", cut)
    page.locator(".hit-play").nth(1).click()
    _in_sync(page)
    page.locator("#toggle-filters").click()
    expect(page.locator(".hit canvas[data-drawn]").first).to_be_visible()
    shot(page, f"search-{scheme}")
    assert _serious(page) == []
    page.check("input[name=for][value=video]")
    expect(page.locator(".hits.pictures .hit").first).to_be_visible()
    assert _serious(page) == []
    for view in ("library", "kept"):
        page.locator(f"nav [data-view={view}]").click()
        assert _serious(page) == []
    for opener, dialog in (("#open-help", "#help-dialog"), ("#open-folders", "#folders-dialog")):
        page.locator(opener).click()
        expect(page.locator(dialog)).to_be_visible()
        assert _serious(page) == []
        page.keyboard.press("Escape")
    with pytest.raises(StopIteration):
        next(opened)


def test_with_a_token(browser: Browser, place: Path, cut: Path) -> None:
    settings = ServeSettings(index=str(place / "library"), host="127.0.0.1", token=TOKEN, workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(SECONDS_MS)
        page.goto(address)
        expect(page.locator("#token-dialog")).to_be_visible()
        assert _serious(page) == []
        page.keyboard.press("Escape")
        expect(page.locator("#token-dialog")).to_be_visible()
        page.locator("#token").fill("not the token at all")
        page.keyboard.press("Enter")
        expect(page.locator("#token-problem")).to_contain_text("A token is needed")
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator(".suggestion img").first).to_be_visible()
        page.set_input_files("#pick", cut)
        page.locator(".hit-play").first.click()
        _in_sync(page)
        page.reload()
        expect(page.locator(".hit").first).to_be_visible()
        assert TOKEN not in page.content()
        assert page.evaluate("document.cookie") == ""
        context.close()
