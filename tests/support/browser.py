"""A real service on a real port, and a real browser to use it with."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, Page

from cmmixer.server.app import create_app
from cmmixer.server.service import Service

SCREENSHOTS = Path(__file__).resolve().parents[2] / "ci-output" / "page"
DESKTOP = {"viewport": {"width": 1380, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
FLAGS = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
TIMEOUT_MS = 20_000
_START_SECONDS = 30.0


def find_chromium() -> str | None:
    """Returns the path of the system's browser, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def running(service: Service) -> Iterator[str]:
    """Runs a service on a free port, in a thread; yields its address."""
    config = uvicorn.Config(
        create_app(service), port=0, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def open_page(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """Opens the page of a service in a context of its own."""
    context = browser.new_context(**{**DESKTOP, **options})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    yield page
    context.close()


def collect_errors(page: Page) -> list[str]:
    """Returns a list that fills with what goes wrong on a page: script errors, policy violations, dialogs."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss())[0])
    return errors


def screenshot(page: Page, name: str) -> None:
    """Saves a screenshot of the page for a person to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def drop_file(page: Page, path: Path, media_type: str) -> None:
    """Drops a file onto the page, as from a folder."""
    transfer = page.evaluate_handle(
        """([bytes, name, type]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
          return transfer;
        }""",
        [list(path.read_bytes()), path.name, media_type],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("main", event, {"dataTransfer": transfer})
