"""Pages of the web UI in a real browser, over data of every kind.

Each test loads pages, waits for what a person would look for, and then checks that no
request to our server failed and that the console is silent.
"""

from __future__ import annotations

import urllib.request

import pytest
from selenium.webdriver.common.keys import Keys

from matyan_project.local_server import LocalServer
from tests.browser.browser import Browser
from tests.browser.seeding import OBJECT_STEPS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


def see(browser: Browser, path: str, *texts: str, name: str = "") -> None:
    """Load a page, wait for its texts, keep a picture, check it."""
    browser.open(path)
    browser.wait_for(*texts)
    browser.settle()
    browser.shoot(name or path.strip("/").replace("/", "-") or "home")
    browser.check()


def test_home(browser: Browser) -> None:
    see(
        browser,
        "/",
        *(
            "Total runs: 4",
            "Experiments (2)",
            "Tags (3)",
            "it's odd",
            "Active runs (1)",
        ),
        *("Live run", "Contributions", "Started a run:"),
    )

    browser.click_text("digits")
    browser.wait_for("Runs status", "Activity")
    assert "/experiments/" in browser.driver.current_url
    browser.settle()
    browser.check()


def test_runs(browser: Browser) -> None:
    see(
        browser, "/runs", "Full run", "Live run", 'Odd <run> & "quotes" é', "0.37719235"
    )
    assert "Plain run" not in browser.text()  # archived

    browser.click_text("Full run")
    browser.wait_for("Run Params", "hparams.lr")
    browser.settle()
    browser.check()


@pytest.mark.parametrize(
    ("tab", "texts"),
    [
        (
            "overview",
            (
                *("hparams.lr", "0.62280765", "baseline", "Everything a run can have"),
                *("weights.bin", "numpy", "train.py"),
            ),
        ),
        ("run_parameters", ('"optimizer"', "dataset")),
        ("notes", ("Findings", "The loss falls.")),
        ("logs", ("epoch 229: loss=0.0043",)),
        ("messages", ("message 11", "November 2026", "ERROR", "WARNING")),
        ("metrics", ("accuracy", "loss")),
        ("system", ("CPU (%)", "Memory (%)")),
        ("distributions", ("weights", "Step 0")),
        ("images", ("confusion", "record.step", "confusion 5.1")),
        ("audios", ("tone", "record.step", "tone 5.1")),
        ("texts", ("sample", "step 5, item 2")),
        ("figures", ("scatter", "Figure 5")),
        ("settings", ("Archive Run", "Delete Run")),
    ],
)
def test_tabs_of_a_run(browser: Browser, tab: str, texts: tuple[str, ...]) -> None:
    see(browser, f"/runs/full/{tab}", *texts)


@pytest.mark.parametrize(
    ("tab", "texts"),
    [
        ("overview", ("one point", "big")),
        ("run_parameters", ("nested", "1152921504606847")),
        ("metrics", ("one point",)),
        ("images", ("gone",)),
        ("texts", ("lonely text",)),
        ("logs", ("No Logs",)),
        ("figures", ("No tracked figures",)),
    ],
)
def test_tabs_of_an_odd_run(browser: Browser, tab: str, texts: tuple[str, ...]) -> None:
    see(browser, f"/runs/odd/{tab}", *texts)


def test_charts_of_a_run_are_drawn(browser: Browser) -> None:
    for tab, selector, count in (
        ("metrics", "path.Line", 3),
        ("system", "path.Line", 3),
        ("figures", ".js-plotly-plot .scatterlayer .trace", 1),
        ("distributions", "canvas, svg", 1),
    ):
        browser.open(f"/runs/full/{tab}")
        browser.wait(lambda: len(browser.all(selector)) >= count)  # noqa: B023 - at once
        browser.check()


def test_an_audio_is_fetched_when_played(browser: Browser) -> None:
    see(browser, "/runs/full/audios", "tone 0.0")

    browser.point_and_click(".AudioBox__controllers__player")
    browser.wait(lambda: browser.asked_for("/runs/audios/get-batch"))
    browser.wait_for("/00:02")  # decoded: its length is known
    browser.settle()
    browser.check()


def test_pages_of_a_live_run_ask_again(browser: Browser) -> None:
    see(browser, "/runs/live/logs", "epoch 19")
    browser.wait(lambda: browser.asked_for("record_range=14%3A"))

    see(browser, "/runs/live/messages", "message 2")
    browser.wait(lambda: browser.asked_for("record_range=2:"))
    browser.check()


def press(browser: Browser, text: str) -> None:
    """Click the button with this text."""

    def find() -> object:
        return [one for one in browser.all("button") if one.text.strip() == text]

    browser.driver.execute_script("arguments[0].click()", browser.wait(find)[0])


def search(browser: Browser, explorer: str, *names: str) -> None:
    """Choose series in an explorer and search."""
    browser.open(f"/{explorer}")
    press(browser, explorer.capitalize())
    browser.wait(lambda: browser.all(".MuiAutocomplete-option"))
    for name in names:
        option = next(
            one
            for one in browser.all(".MuiAutocomplete-option")
            if one.text.strip() == name
        )
        browser.driver.execute_script("arguments[0].click()", option)
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    press(browser, "Search")
    browser.settle()


def test_metrics_explorer(browser: Browser) -> None:
    search(browser, "metrics", "loss", "accuracy")
    browser.wait_for('metric.name="loss"', 'metric.name="accuracy"', "Mixed: 3 values")
    browser.wait(lambda: len(browser.all("path.Line")) >= 7)
    browser.wait(lambda: "Processing" not in browser.text())
    browser.shoot("metrics-found")
    browser.check()


def test_live_update_of_the_metrics_explorer(
    browser: Browser, server: LocalServer
) -> None:
    search(browser, "metrics", "loss")
    browser.wait_for('metric.name="loss"')
    searches = count_searches(server)

    browser.driver.execute_script(
        "arguments[0].click()", browser.all(".LiveUpdateSettings .Switcher")[0]
    )

    # The worker's requests are not told to the page's driver.
    browser.wait(lambda: count_searches(server) > searches)
    browser.settle()
    browser.check()


def count_searches(server: LocalServer) -> float:
    """Return how many metric searches the server has answered well."""
    with urllib.request.urlopen(f"{server.url}/api/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("matyan_backend_http_requests_total{")
        and "search/metric" in line
        and 'status="200"' in line
    )


def test_images_explorer(browser: Browser) -> None:
    search(browser, "images", "digit", "gone")
    browser.wait_for("Steps count:", "digit 5.1", "Live run", "Full run")
    browser.wait(lambda: len(pictures(browser)) >= 2 * OBJECT_STEPS)
    browser.wait(lambda: "Processing" not in browser.text())
    browser.shoot("images-found")
    browser.check()

    # The page now asks for one step and one index fewer than there are.
    press(browser, "Apply")
    browser.wait(lambda: browser.asked_for("record_density=5"))
    browser.settle()
    browser.wait_for("digit 5.1")
    browser.check()


def pictures(browser: Browser) -> list[object]:
    """Return the pictures that have been decoded."""
    found: list[object] = browser.driver.execute_script(
        "return [...document.querySelectorAll('img')]"
        ".filter(i => i.src.startsWith('data:') && i.naturalWidth == 32)"
    )
    return found


def test_tags(browser: Browser) -> None:
    see(browser, "/tags", "3 Tags", "baseline", "On no run")

    browser.click_text("baseline")
    browser.wait_for("Live run", "Full run")
    browser.settle()
    browser.shoot("tag-runs")
    browser.check()


def test_an_experiment(browser: Browser) -> None:
    browser.open("/")
    browser.wait_for("it's odd")
    browser.click_text("digits")
    browser.wait_for("Runs status")
    place = browser.driver.current_url.removeprefix(browser.origin).rsplit("/", 1)[0]

    see(browser, f"{place}/overview", "Total runs: 3", "Live run", name="experiment")
    see(browser, f"{place}/runs", "Full run", "Live run", name="experiment-runs")
    see(browser, f"{place}/notes", "An experiment's note", name="experiment-notes")
    see(browser, f"{place}/settings", "Experiment", name="experiment-settings")


@pytest.mark.parametrize(
    "path", ["/params", "/scatters", "/text", "/figures", "/audios", "/bookmarks"]
)
def test_other_pages_open(browser: Browser, path: str) -> None:
    see(browser, path, "Bookmarks")


def test_a_page_reloaded_deep_inside_is_the_same(browser: Browser) -> None:
    see(browser, "/runs/full/texts", "step 5, item 2", name="reloaded")
    browser.driver.refresh()
    browser.wait_for("step 5, item 2")
    browser.settle()
    browser.check()


def test_images_of_a_run_are_drawn(browser: Browser) -> None:
    browser.open("/runs/full/images")
    browser.wait_for("confusion 5.1")
    browser.wait(lambda: len(pictures(browser)) >= OBJECT_STEPS)
    browser.shoot("runs-full-images-drawn")
    browser.check()
