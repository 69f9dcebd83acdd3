"""The page in a real Chromium: search, play in sync, save, index a folder; by keyboard, on a phone, with axe."""

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
from cmmixer.media.decode import MediaFile
from cmmixer.server import jobs as jobs_module
from cmmixer.server.service import Service
from tests.support.browser import PHONE, TIMEOUT_MS, collect_errors, drop_file, open_page, running, screenshot
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, video
from tests.support.exotic_formats import exotic_sound, exotic_video
from tests.support.service import NASTY, NO_ID, make_data, make_index

TOKEN = "a-token-of-more-than-16-characters"
# Largest drift between video and audio while they play: less than a frame and a half.
IN_SYNC_SECONDS = 0.06


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library, and a folder beside it that is not in it."""
    folder = tmp_path_factory.mktemp("page")
    make_index(make_data(folder / "data"), folder / "library")
    for number in range(5):
        video(folder / "more" / "holiday" / f"{number}.mp4", [RED] * 2)
    (folder / "more" / "holiday" / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def address(workspace: Path) -> Iterator[str]:
    settings = ServeSettings(index=str(workspace / "library"), roots=str(workspace / "more"), workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The start view of the page. The test fails if an error occurs on the page."""
    yield from _open(browser, address)


@pytest.fixture
def phone(browser: Browser, address: str) -> Iterator[Page]:
    yield from _open(browser, address, **PHONE)


def _open(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    with open_page(browser, "about:blank", **options) as page:
        errors = collect_errors(page)
        page.goto(address)
        expect(page.locator(".suggestion").first).to_be_visible()
        yield page
    assert errors == []


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A silent video that turns from green to blue after three seconds."""
    return video(tmp_path_factory.mktemp("cut") / "my cut.mp4", [GREEN] * 3 + [BLUE] * 3, sound=None)


@pytest.fixture(scope="module")
def bell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound that matches blue."""
    return sound(tmp_path_factory.mktemp("bell") / "bell.wav", [BLUE] * 4)


def _times(page: Page) -> dict[str, float]:
    return page.evaluate(
        """() => { const [video, audio] = [document.getElementById("video"), document.getElementById("audio")];
          return { video: video.currentTime, audio: audio.currentTime, drift: Number(document.getElementById("player").dataset.drift),
                   playing: !video.paused && !audio.paused, muted: video.muted }; }"""
    )


def _in_sync(page: Page) -> dict[str, float]:
    """Waits until video and audio play in sync; returns their times."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while time.monotonic() < deadline:
        times = _times(page)
        if times["playing"] and 0 < abs(times["drift"]) < IN_SYNC_SECONDS:
            return times
        time.sleep(0.02)
    raise AssertionError(f"never in sync: {times}")


def _wait_for_video(page: Page, width: int) -> None:
    """Waits until the player shows a video of this width in pixels."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while (got := page.evaluate("document.getElementById('video').videoWidth")) != width:
        assert time.monotonic() < deadline, f"the video is {got} pixels wide"
        time.sleep(0.05)


def _violations(page: Page) -> list[str]:
    """Returns the serious accessibility violations on the page."""
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {violation['help']} ({violation['nodes'][0]['html'][:120]})"
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


def test_drop_a_video_and_save_it_with_a_found_sound(page: Page, cut: Path, workspace: Path, tmp_path: Path) -> None:
    screenshot(page, "start")
    drop_file(page, cut, "video/mp4")
    hits = page.locator(".hit")
    expect(hits.first).to_be_visible()
    expect(page.locator("#query-name")).to_have_text("my cut.mp4")
    expect(page.locator("#query-facts")).to_have_text("6.0 s, picture only")
    expect(page.locator("#results-title")).to_contain_text(re.compile(r"\d+ sounds"))
    # A name that looks like markup is shown as text.
    nasty = page.locator(".hit", has_text="<img src=x onerror=alert(1)>").first
    expect(nasty).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    expect(nasty.locator("canvas")).to_have_attribute("data-drawn", "true")
    nasty.locator(".hit-play").click()
    times = _in_sync(page)
    # The blue sound plays where the video is blue, not at its beginning.
    assert times["video"] > 2.4
    assert times["muted"]
    expect(page.locator("#sync-badge")).to_contain_text("in sync")
    expect(page.locator("#now-playing")).to_contain_text("with your picture from 0:0")
    screenshot(page, "playing")
    later = _in_sync(page)
    assert later["audio"] - times["audio"] == pytest.approx(later["video"] - times["video"], abs=2 * IN_SYNC_SECONDS)
    page.locator("#play").click()
    expect(page.locator("#player")).to_have_attribute("data-state", "paused")
    with page.expect_download() as written:
        page.locator("#save-video").click()
    assert written.value.suggested_filename.startswith("my cut with ")
    written.value.save_as(tmp_path / "written.mp4")
    with MediaFile.open(tmp_path / "written.mp4") as saved_video:
        assert saved_video.info.duration_seconds == pytest.approx(6.0, abs=0.1)
        assert saved_video.info.video is not None
        assert saved_video.info.audio is not None
    expect(page.locator(".toast")).to_contain_text("picture unchanged")
    with page.expect_download() as saved:
        nasty.locator(".download").click()
    saved.value.save_as(tmp_path / "saved.wav")
    assert (tmp_path / "saved.wav").read_bytes() == (workspace / "data" / "sounds" / NASTY).read_bytes()


def test_drop_a_sound_and_find_videos(page: Page, bell: Path) -> None:
    drop_file(page, bell, "audio/wav")
    first = page.locator(".hits.as-grid .hit").first
    expect(first).to_contain_text("mixed")
    expect(first.locator("img")).to_be_visible()
    expect(page.locator("input[name=by][value=video]")).to_be_disabled()
    first.locator(".hit-play").click()
    times = _in_sync(page)
    assert 3.0 <= times["video"] < 8.0
    assert times["muted"]
    expect(page.locator("#now-playing")).to_contain_text("with your sound from 0:0")
    screenshot(page, "pictures")


@pytest.mark.parametrize("refused", [False, True])
def test_unplayable_formats_are_converted(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Either because the service knows, or because this browser fails: with an error, or with no video."""
    if refused:
        monkeypatch.setattr("cmmixer.server.playback.plays_in_browsers", lambda info, modality: True)
    exotic_video(tmp_path / "data" / "green.avi", [GREEN] * 4, "avi")
    exotic_sound(tmp_path / "data" / "blue.aiff", [GREEN] * 2 + [BLUE] * 4, "aiff")
    make_index(tmp_path / "data", tmp_path / "library")
    settings = ServeSettings(index=str(tmp_path / "library"), workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address, open_page(browser, address) as page:
        # This browser would play the audio of it alone, without an error.
        page.set_input_files("#pick-file", exotic_video(tmp_path / "cut", [GREEN] * 2 + [BLUE] * 2, "mov-aac"))
        _wait_for_video(page, 64)
        page.locator(".hit", has_text="blue").first.locator(".hit-play").click()
        times = _in_sync(page)
        assert times["video"] > 1.4
        assert times["audio"] > 1.4
        expect(page.locator("#screen-note")).to_be_hidden()
        screenshot(page, "converted" if refused else "converted-at-once")
        # And the other way round: a video of the library with an uploaded sound.
        page.set_input_files("#pick-another", exotic_sound(tmp_path / "bell.au", [GREEN] * 2, "au"))
        expect(page.locator("#query-name")).to_have_text("bell.au")
        page.locator(".hits.as-grid .hit", has_text="green").first.locator(".hit-play").click()
        _in_sync(page)
        _wait_for_video(page, 64)


def test_long_video_plays_from_the_match(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmmixer.server.playback._WHOLE_SECONDS", {"video": 20.0, "audio": 1800.0})
    sound(tmp_path / "data" / "blue.wav", [BLUE] * 4)
    make_index(tmp_path / "data", tmp_path / "library")
    settings = ServeSettings(index=str(tmp_path / "library"), workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address, open_page(browser, address) as page:
        page.set_input_files("#pick-file", exotic_video(tmp_path / "day.avi", [RED] * 30 + [BLUE] * 6, "avi"))
        page.locator(".hit").first.locator(".hit-play").click()
        times = _in_sync(page)
        # The converted part begins ten to twenty seconds before the match: second 31 of the video is its second 11.
        assert 9.4 < times["video"] < 17
        expect(page.locator("#now-playing")).to_contain_text("(converted for this browser, from 0:20.0)")
        expect(page.locator("#clock")).to_have_text(re.compile(r"^0:3\d\.\d / 0:3\d\.\d$"))
        assert float(page.locator("#seek").get_attribute("min") or 0) == 20.0
        page.locator("#to-match").click()
        expect(page.locator("#clock")).to_have_text(re.compile(r"^0:(29|3\d)"))
        screenshot(page, "converted-stretch")


def test_levels_shift_and_loop(page: Page, cut: Path) -> None:
    page.set_input_files("#pick-file", cut)
    page.locator(".hit-play").first.click()
    _in_sync(page)
    page.locator("#later").click()
    page.locator("#later").click()
    expect(page.locator("#shift")).to_have_text("+40 ms")
    times = _in_sync(page)
    expected = page.evaluate(
        "[document.getElementById('video').currentTime, document.getElementById('audio').currentTime]"
    )
    assert times["playing"]
    assert expected[1] >= 0
    page.locator("#level-own").fill("0.5")
    assert page.evaluate("[document.getElementById('video').muted, document.getElementById('video').volume]") == [
        False,
        0.5,
    ]
    page.locator("#loop").click()
    expect(page.locator("#loop")).to_have_attribute("aria-pressed", "true")
    time.sleep(2.5)
    assert _times(page)["playing"]


def test_find_similar_and_go_back(page: Page, cut: Path) -> None:
    page.set_input_files("#pick-file", cut)
    first = page.locator(".hit").first
    title = first.locator(".hit-title").inner_text()
    first.locator(".similar").click()
    expect(page.locator("#query-name")).to_contain_text(title)
    expect(page.locator("#query-facts")).to_contain_text("the moment at")
    expect(page.locator("input[name=by][value=audio]")).to_be_checked()
    expect(page.locator(".hit").first).to_be_visible()
    page.go_back()
    expect(page.locator("#query-name")).to_have_text("my cut.mp4")


def test_filters_narrow_the_results(page: Page, cut: Path) -> None:
    page.set_input_files("#pick-file", cut)
    expect(page.locator(".hit").nth(4)).to_be_visible()
    page.locator("#toggle-filters").click()
    page.locator("#filters select[name=label]").select_option("warm")
    expect(page.locator("#filters-count")).to_have_text("1")
    expect(page.locator("#results-title")).to_contain_text("sounds")
    expect(page.locator(".hit", has_text="green")).to_have_count(0)
    page.locator("#filters input[name=min_seconds]").fill("2.5")
    expect(page.locator(".hit:not(:has-text('red'))")).to_have_count(0)
    expect(page.locator(".hit").first).to_contain_text("red")
    screenshot(page, "filters")
    page.locator("#filters input[name=min_seconds]").fill("")
    page.locator("#filters label", has_text="camera").locator("select").select_option("camera:B")
    expect(page.locator(".hit", has_text="yellow")).to_have_count(0)
    expect(page.locator("#filters-count")).to_have_text("2")
    expect(page.locator(".hit").first).to_contain_text("red")
    page.locator("#filters label", has_text="camera").locator("select").select_option("")
    page.locator("#filters select[name=label]").select_option("")
    page.locator("#filters label", has_text="split").locator("select").select_option("split:test")
    expect(page.locator(".hit", has_text="red")).to_have_count(0)
    expect(page.locator(".hit", has_text="mixed").first).to_be_visible()
    page.locator("#filters input[name=text]").fill("no such name")
    expect(page.locator(".nothing")).to_have_text("Nothing in the library matches these filters.")
    page.locator("#filters button[type=reset]").click()
    expect(page.locator(".hit").nth(4)).to_be_visible()


def test_timeline_plays_segments(page: Page, cut: Path, tmp_path: Path) -> None:
    page.set_input_files("#pick-file", cut)
    segments = page.locator("#timeline .segment")
    expect(segments.first).to_be_visible()
    blue = segments.last
    blue.hover()
    expect(page.locator("#timeline-caption")).to_have_text(re.compile(r"0:0\d\.\d – 0:06\.0: .+ at 0:0\d\.\d"))
    screenshot(page, "timeline")
    page.locator("#loop").focus()
    segments.first.focus()
    page.keyboard.press("ArrowRight")
    expect(segments.nth(1)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(segments.nth(1)).to_be_focused()
    for _ in range(segments.count() - 2):
        page.keyboard.press("ArrowRight")
    expect(blue).to_be_focused()
    page.keyboard.press("Enter")
    expect(blue).to_have_class(re.compile("loaded"))
    assert _in_sync(page)["video"] > 2.4
    assert _violations(page) == []
    screenshot(page, "timeline-playing")
    page.set_input_files("#pick-another", sound(tmp_path / "short.wav", [BLUE]))
    expect(page.locator("#query-name")).to_have_text("short.wav")
    expect(page.locator(".hit").first).to_be_visible()
    expect(page.locator("#timeline")).to_be_hidden()


def test_keyboard_alone(page: Page, cut: Path) -> None:
    # Registered first: the event can arrive after the key press has returned.
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "pick-file":
            break
    else:
        pytest.fail("the file input cannot be reached with Tab")
    page.keyboard.press("Enter")
    deadline = time.monotonic() + TIMEOUT_MS / 1000
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
    expect(page.locator("#player")).to_have_attribute("data-state", "paused")
    page.keyboard.press("Space")
    expect(page.locator("#player")).to_have_attribute("data-state", "playing")
    page.keyboard.press(".")
    expect(page.locator("#shift")).to_have_text("+20 ms")
    page.keyboard.press("k")
    expect(page.locator("#shortlist-count")).to_have_text("1")
    page.keyboard.press("/")
    expect(page.locator("#filters input[name=text]")).to_be_focused()
    page.keyboard.type("k")  # a letter here, not a shortcut
    expect(page.locator("#shortlist-count")).to_have_text("1")
    page.locator("#filters input[name=text]").fill("")
    page.keyboard.press("Tab")
    page.locator("#toggle-filters").focus()
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help-dialog")).to_be_hidden()
    # Only the current result is in the tab order, so that Tab leaves a list of hundreds in four steps.
    assert page.locator(".hit button:not([tabindex='-1'])").count() <= 3


def test_shortlist_is_saved_as_csv_and_edl(page: Page, cut: Path, tmp_path: Path) -> None:
    page.set_input_files("#pick-file", cut)
    for name in ("onerror", "green"):
        page.locator(".hit", has_text=name).first.locator(".shortlist").click()
    page.reload()
    page.locator("nav [data-view=shortlist]").click()
    expect(page.locator("#shortlist-rows li")).to_have_count(2)
    with page.expect_download() as saved:
        page.locator("#shortlist-csv").click()
    saved.value.save_as(tmp_path / "shortlist.csv")
    with (tmp_path / "shortlist.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"sounds/{NASTY}", "sounds/green.wav"]
    assert rows[0]["query"] == "my cut.mp4"
    assert float(rows[0]["end_seconds"]) - float(rows[0]["start_seconds"]) == pytest.approx(1.0)
    page.locator("#shortlist-rate").select_option("24")
    with page.expect_download() as listed:
        page.locator("#shortlist-edl").click()
    listed.value.save_as(tmp_path / "shortlist.edl")
    text = (tmp_path / "shortlist.edl").read_text()
    assert "* FROM CLIP NAME: green.wav" in text
    assert "01:00:01:00" in text
    screenshot(page, "shortlist")
    page.locator("#shortlist-rows button").first.click()
    expect(page.locator("#shortlist-rows li")).to_have_count(1)


def test_library_is_sorted_and_starts_a_search(page: Page) -> None:
    page.locator("nav [data-view=library]").click()
    rows = page.locator("#items tr")
    expect(rows).to_have_count(6)
    expect(rows.first).to_contain_text("onerror")
    page.get_by_role("button", name="Length").click()
    expect(rows.first).to_contain_text("yellow")
    expect(page.locator("th[aria-sort]")).to_contain_text("Length")
    page.get_by_role("button", name="Length").click()
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    expect(rows.first).to_contain_text("mixed")
    screenshot(page, "library")
    rows.first.locator("a").click()
    expect(page.locator("#query-name")).to_contain_text("mixed")
    expect(page.locator(".hit").first).to_be_visible()


def test_index_a_folder_from_the_page(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = jobs_module.Job.advance

    def slowly(self: jobs_module.Job, steps: int = 1) -> None:
        advance(self, steps)
        if steps:
            time.sleep(0.25)

    monkeypatch.setattr(jobs_module.Job, "advance", slowly)
    page.locator("#open-folders").click()
    page.locator("#folder-list button", has_text="more").click()
    page.locator("#folder-list button", has_text="holiday").click()
    expect(page.locator("#start-job")).to_be_enabled()
    screenshot(page, "folders")
    page.evaluate(
        """() => { window.seen = []; const bar = document.getElementById("job-bar");
          new MutationObserver(() => window.seen.push(`${bar.value} of ${bar.max}`)).observe(bar, { attributes: true }); }"""
    )
    page.locator("#start-job").click()
    expect(page.locator("#job-phase")).to_have_text("embedding videos")
    screenshot(page, "indexing")
    expect(page.locator("#job-panel")).to_have_attribute("data-state", "done")
    seen = page.evaluate("window.seen")
    assert len({step for step in seen if step.endswith("of 6")}) >= 4
    expect(page.locator("#job-result")).to_contain_text("5added")
    expect(page.locator(".skips")).to_contain_text("broken.mp4")
    screenshot(page, "indexed")
    page.keyboard.press("Escape")
    page.locator("nav [data-view=library]").click()
    expect(page.locator("#library-facts")).to_contain_text("8 videos")


def test_errors_show_on_the_page(browser: Browser, address: str, tmp_path: Path) -> None:
    with open_page(browser, address) as page:
        expect(page.locator(".suggestion").first).to_be_visible()
        (tmp_path / "letter.mp4").write_text("Dear editor, this is no video.")
        page.set_input_files("#pick-file", tmp_path / "letter.mp4")
        expect(page.locator("#upload-line")).to_contain_text("This file cannot be used")
        expect(page.locator("#upload-line")).to_contain_text("letter.mp4: cannot be decoded")
        screenshot(page, "problem")
        page.goto(f"{address}/#/search?query={NO_ID}")
        expect(page.locator("#results-problem")).to_contain_text("Not found")


def test_phone_width(phone: Page, cut: Path) -> None:
    screenshot(phone, "phone-start")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.set_input_files("#pick-file", cut)
    phone.locator(".hit-play").first.tap()
    _in_sync(phone)
    screenshot(phone, "phone-playing")
    for view in ("library", "shortlist", "search"):
        phone.locator(f"nav [data-view={view}]").tap()
        # Nothing is wider than the screen.
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.goto(phone.url.split("#")[0] + "#/library")
    expect(phone.locator("#items tr").first).to_be_visible()
    screenshot(phone, "phone-library")
    assert _violations(phone) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violations(browser: Browser, address: str, cut: Path, scheme: str) -> None:
    opened = _open(browser, address, color_scheme=scheme, reduced_motion="reduce")
    page = next(opened)
    assert _violations(page) == []
    page.set_input_files("#pick-file", cut)
    page.locator(".hit-play").nth(1).click()
    _in_sync(page)
    page.locator("#toggle-filters").click()
    expect(page.locator(".hit canvas[data-drawn]").first).to_be_visible()
    screenshot(page, f"search-{scheme}")
    assert _violations(page) == []
    page.check("input[name=for][value=video]")
    expect(page.locator(".hits.as-grid .hit").first).to_be_visible()
    assert _violations(page) == []
    for view in ("library", "shortlist"):
        page.locator(f"nav [data-view={view}]").click()
        assert _violations(page) == []
    for opener, dialog in (("#open-help", "#help-dialog"), ("#open-folders", "#folders-dialog")):
        page.locator(opener).click()
        expect(page.locator(dialog)).to_be_visible()
        assert _violations(page) == []
        page.keyboard.press("Escape")
    with pytest.raises(StopIteration):
        next(opened)


def test_page_asks_for_the_token(browser: Browser, workspace: Path, cut: Path) -> None:
    settings = ServeSettings(index=str(workspace / "library"), host="127.0.0.1", token=TOKEN, workers=1, searches=1)
    with running(Service(settings, ColourEncoder())) as address, open_page(browser, address) as page:
        expect(page.locator("#token-dialog")).to_be_visible()
        assert _violations(page) == []
        page.keyboard.press("Escape")
        expect(page.locator("#token-dialog")).to_be_visible()
        page.locator("#token").fill("not the token at all")
        page.keyboard.press("Enter")
        expect(page.locator("#token-problem")).to_contain_text("A token is required")
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator(".suggestion img").first).to_be_visible()
        page.set_input_files("#pick-file", cut)
        page.locator(".hit-play").first.click()
        _in_sync(page)
        page.reload()
        expect(page.locator(".hit").first).to_be_visible()
        assert TOKEN not in page.content()
        assert page.evaluate("document.cookie") == ""
