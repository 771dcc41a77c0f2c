"""A real Chromium without a window, to look at pages with: Debian's program, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, sync_playwright

from tests.servers.process import find_program


@dataclass
class Sight:
    """An open page, and what it did that nobody may see it do."""

    page: Page
    requests: list[str] = field(default_factory=list)
    """The address of every request, the page's own first."""
    fetched: list[str] = field(default_factory=list)
    """The address of every request that was answered."""
    complaints: list[str] = field(default_factory=list)
    """Errors, console messages and dialogs: a page has none."""


class Browser:
    """A context manager; every look has a profile of its own."""

    def __init__(self) -> None:
        self._program = find_program("chromium")

    def __enter__(self) -> "Browser":
        self._playwright = sync_playwright().start()
        # Without its sandbox, which root and most containers do not give it: it only opens files of the test's own.
        self._chromium: Chromium = self._playwright.chromium.launch(
            executable_path=self._program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._chromium.close()
        self._playwright.stop()

    @contextmanager
    def look(self, file: Path, *, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Sight]:
        """Open a file, in CSS pixels; `options` are Playwright's for a new context (color_scheme, java_script_enabled …)."""
        context = self._chromium.new_context(viewport={"width": width, "height": height}, **options)
        try:
            sight = Sight(context.new_page())
            page = sight.page
            page.set_default_timeout(15_000)
            page.on("request", lambda request: sight.requests.append(request.url))
            page.on("requestfinished", lambda request: sight.fetched.append(request.url))
            page.on("console", lambda message: sight.complaints.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: sight.complaints.append(f"error: {error}"))

            def refuse(dialog: Any) -> None:
                sight.complaints.append(f"dialog: {dialog.message}")
                dialog.dismiss()

            page.on("dialog", refuse)
            page.goto(file.as_uri())
            yield sight
        finally:
            context.close()
