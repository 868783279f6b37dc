"""Prefect's pages as a person uses them, by the words that stand on them; and pictures of them where those are wanted.

Debian's Chromium, driven by Playwright; nothing is downloaded. The pages are those that `tapir up` shows first.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = "TAPIR_PICTURES"
"""Environment variable: the folder that pictures go to; without it none are taken."""
AMPLITUDE = "https://sr-client-cfg.amplitude.com/config/"
"""Prefect's pages ask there for the settings of their statistics, also when those are off."""
ENDS = ("Completed", "Failed", "Crashed", "Cancelled")
WIDTH, HEIGHT = 1280, 900
PATIENCE_SECONDS = 60
"""For a page to show what the server has."""
DRAWN_SECONDS = 2
"""For a graph to move into place, of which nothing says that it has."""
START_SECONDS = 180
"""For a worker to begin a flow run, which then has the name of its run."""


class Ui:
    """One window of a browser on one Prefect server."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.asked_elsewhere: set[str] = set()
        """Addresses beyond the server that a page wanted to ask; none was let through."""
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.route(lambda url: not url.startswith(f"{address}/"), self._refuse)
        page.goto(address)

    def open_form(self, deployment: str) -> None:
        """*Deployments → NAME → Run → Custom run*."""
        self.open_deployment(deployment)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run", exact=True).click()
        self.page.get_by_role("heading", name="Parameters").wait_for()

    def open_deployment(self, name: str) -> None:
        self.page.get_by_role("link", name="Deployments", exact=True).first.click()
        self.page.wait_for_url(re.compile(r"/deployments(\?|$)"))
        self.page.locator("a[href*='/deployments/deployment/']").get_by_text(name, exact=True).first.click()
        self.page.wait_for_url("**/deployments/deployment/*")

    def fill(self, title: str, text: str) -> None:
        self.page.get_by_label(title).fill(text)

    def choose(self, title: str, option: str) -> None:
        self.page.get_by_label(title).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def switch_on(self, title: str) -> None:
        self.page.get_by_label(title).click()

    def add_item(self, text: str) -> None:
        """To the form's only list."""
        items = self.page.locator("form textarea")
        before = items.count()
        self.page.get_by_role("button", name="Add item").click()
        items.nth(before).fill(text)

    def submit(self) -> None:
        self.page.get_by_role("button", name="Submit", exact=True).click()
        self.page.wait_for_url(re.compile(r"/deployments/deployment/[^/]+\?tab=Runs"))

    def open_run(self, deployment: str, name: str) -> None:
        """The newest flow run of a deployment, once it has the name of its run."""
        self.open_deployment(deployment)
        self.page.get_by_role("link", name=name, exact=True).first.click(timeout=START_SECONDS * 1000)
        self.page.get_by_role("tab", name="Subflow Runs").wait_for()

    def wait_for_end(self, seconds: float) -> str:
        """Watch the open flow run until it ends, without touching the page; gives the name of its state."""
        ended = self.page.locator("main [data-slot=badge]").get_by_text(re.compile(f"^({'|'.join(ENDS)})$"))
        ended.wait_for(timeout=seconds * 1000)
        return ended.inner_text()

    def state_message(self) -> str:
        self.open_tab("Details")
        self.page.get_by_text("State Message").wait_for()
        return self.page.get_by_role("tabpanel").inner_text()

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def open_subflow(self, name: str) -> None:
        self.open_tab("Subflow Runs")
        self.page.get_by_role("tabpanel").get_by_role("link", name=name, exact=True).first.click()
        self.page.get_by_text("Parent Run").wait_for()

    def open_artifact(self, key: str) -> None:
        self.open_tab("Artifacts")
        self.page.get_by_role("tabpanel").get_by_text(key, exact=True).first.click()
        self.page.wait_for_url("**/artifacts/key/*")
        self.page.locator("a[href*='/artifacts/artifact/']").first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")

    def take_picture(self, name: str, *, height: int = HEIGHT) -> None:
        """Keep what is seen, where pictures are wanted."""
        folder = os.environ.get(PICTURES)
        if folder:
            self.page.set_viewport_size({"width": WIDTH, "height": height})
            self.page.wait_for_timeout(DRAWN_SECONDS * 1000)
            self.page.screenshot(path=Path(folder) / f"{name}.png")
            self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def take_picture_of_graph(self, name: str, *, height: int) -> None:
        """Keep a flow run's graph over the whole window."""
        self.page.set_viewport_size({"width": WIDTH, "height": height})
        for key in ("f", "c"):  # full screen, centre
            self.page.wait_for_timeout(DRAWN_SECONDS * 1000)
            self.page.keyboard.press(key)
        self.take_picture(name, height=height)
        self.page.keyboard.press("f")

    def _refuse(self, route: Route) -> None:
        self.asked_elsewhere.add(route.request.url.partition("?")[0])
        route.abort()


@contextmanager
def open_ui(address: str) -> Iterator[Ui]:
    """A browser on the pages of a server; they ask nobody else, but for what docs/operating.md says."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is not there: install Debian's package chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        ui = Ui(browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}), address)
        yield ui
        browser.close()
    assert [url for url in ui.asked_elsewhere if not url.startswith(AMPLITUDE)] == []
