"""The report, and MLflow's pages, in a real browser: headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from clsearch import LogRange, Study
from clsearch.cli.main import main
from clsearch.config.plain_values import show_value
from clsearch.records.study_record import read_study
from clsearch.reporting.html.report import write_report
from clsearch.reporting.trial_names import format_run_name
from tests.integration.servers import Served
from tests.reporting.html.test_report import SECTIONS
from tests.study_folders import mixed_study, references_of, written

pytestmark = [pytest.mark.browser, pytest.mark.system]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--window-size=1120,1400"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(ray_session: str, results: Path) -> Path:
    """A real study, small, with everything that a report shows."""
    space = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
    study = Study(
        algorithm="lwf",
        name="seen",
        question="Does it look right?",
        results=results,
        space=space,
        hidden=(16,),
        epochs=1,
        seeds=2,
        report_seeds=2,
        trials=6,
        references=("finetuning", "joint"),
    )
    result = study.run()
    assert result.exit_code == 0
    assert list(result.pages) == ["Trials", "Compare"]
    assert all(page.startswith("http://127.0.0.1:5000/#/") for page in result.pages.values())
    return results / "seen"


def opened(browser: webdriver.Chrome, path: Path) -> None:
    """Open a page, until all its pictures are drawn."""
    for log in ("browser", "performance"):
        browser.get_log(log)  # of the page before
    browser.get(path.as_uri())
    wanted = "return [...document.querySelectorAll('.plotly-graph-div')].every(d => d.querySelector('.main-svg'))"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(wanted))


def requests(browser: webdriver.Chrome) -> list[str]:
    """The addresses that were asked for since a page was opened."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


def complaints(browser: webdriver.Chrome) -> list[str]:
    """The errors in its console."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_every_section_is_there_and_the_page_needs_nothing_else(browser: webdriver.Chrome, folder: Path) -> None:
    opened(browser, folder / "report.html")
    sections = [element.get_attribute("id") for element in browser.find_elements(By.CSS_SELECTOR, "main > section")]
    assert sections == ["answer", *SECTIONS]
    for name in SECTIONS[:-1]:
        section = browser.find_element(By.ID, name)
        assert section.find_elements(By.CSS_SELECTOR, ".main-svg"), name
        assert section.find_element(By.CSS_SELECTOR, "p").text
    assert browser.find_element(By.TAG_NAME, "h1").text == "Does it look right?"
    assert requests(browser) == [(folder / "report.html").as_uri()]
    assert complaints(browser) == []


def test_every_picture_has_marks_in_it(browser: webdriver.Chrome, folder: Path) -> None:
    """Axes without data draw no mark."""
    opened(browser, folder / "report.html")
    marks = {
        "response": ".scatterlayer .points path",
        "importance": ".barlayer path",
        "tasks": ".scatterlayer .lines path",
        "forgetting": ".barlayer path",
        "matrix": ".heatmaplayer image",
        "trade-off": ".scatterlayer .points path",
        "optimism": ".scatterlayer .points path",
        "parallel": ".parcoords .y-axis",
        "cost": ".barlayer path",
    }
    assert list(marks) == SECTIONS[:-1]
    for name, mark in marks.items():
        assert browser.find_element(By.ID, name).find_elements(By.CSS_SELECTOR, mark), name
    panels = browser.find_element(By.ID, "tasks").find_elements(By.CSS_SELECTOR, ".scatterlayer .trace")
    assert len(panels) == 2 * 2 * 5  # two configurations, a line and a band, five tasks


def test_a_trial_says_what_it_is_under_the_pointer(browser: webdriver.Chrome, folder: Path) -> None:
    opened(browser, folder / "report.html")
    section = browser.find_element(By.ID, "response")
    browser.execute_script("arguments[0].scrollIntoView()", section)
    point = section.find_element(By.CSS_SELECTOR, ".scatterlayer .points path")
    ActionChains(browser).move_to_element(point).perform()
    label = WebDriverWait(browser, 10).until(
        lambda driver: driver.find_element(By.ID, "response").find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext")
    )
    assert "distillation temperature = " in label[0].text
    assert "average accuracy " in label[0].text
    assert complaints(browser) == []


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a study of every kind of hyperparameter."""
    plan, records = mixed_study(tmp_path_factory.mktemp("mixed"))
    return written(plan, [*records, *references_of(plan, {"epochs": 2})])


def test_choices_and_conditional_hyperparameters_are_in_every_picture(browser: webdriver.Chrome, mixed: Path) -> None:
    study = read_study(mixed)
    write_report(mixed)
    opened(browser, mixed / "report.html")

    def texts(section: str, selector: str) -> list[str]:
        found = browser.find_element(By.ID, section).find_elements(By.CSS_SELECTOR, selector)
        return [element.text for element in found if element.text]

    for number, name in enumerate(study.space, start=1):
        axis = "" if number == 1 else str(number)
        points = browser.find_element(By.ID, "response").find_elements(
            By.CSS_SELECTOR, f".subplot.x{axis}y{axis} .scatterlayer .trace:first-child .points path"
        )
        assert len(points) == sum(name in record.values for record in study.in_state("finished")), name
        if not study.space[name].numeric:
            assert texts("response", f".x{axis}tick text") == [show_value(end) for end in study.space[name].ends]
    notes = " ".join(texts("response", ".infolayer text")).replace("\n", " ")
    assert "of 24 trials: optimizer = sgd" in notes
    ticks = texts("parallel", ".parcoords .axis text")
    assert {"sgd", "adam", "none", "8,8", "true", "not used"} < {*ticks}
    conditional = sum(any(name not in r.values for r in study.in_state("finished")) for name in study.space)
    assert ticks.count("not used") == conditional == 2
    assert "learning rate, if optimizer = adam" in texts("importance", ".ytick text")
    assert complaints(browser) == []


def test_dark_and_light_change_places(browser: webdriver.Chrome, folder: Path) -> None:
    opened(browser, folder / "report.html")

    def colors() -> tuple[str, str]:
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        ink = browser.execute_script("return document.getElementById('figure-response').layout.font.color")
        return paper, ink

    light = colors()
    browser.find_element(By.ID, "theme").click()
    dark = colors()
    assert (light[0], dark[0]) == ("rgb(255, 255, 255)", "rgb(20, 22, 26)")
    assert (light[1], dark[1]) == ("#1b1b1b", "#e8e8e6")
    browser.find_element(By.ID, "theme").click()
    assert colors() == light
    assert complaints(browser) == []


def test_a_browser_that_prefers_dark_gets_it(browser: webdriver.Chrome, folder: Path) -> None:
    prefer = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", prefer)
    opened(browser, folder / "report.html")
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert paper == "rgb(20, 22, 26)"


def test_the_page_of_several_studies_opens_from_disk(browser: webdriver.Chrome, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    assert main(["report", str(folder), str(folder), "--output", str(page)]) == 0
    opened(browser, page)
    text = browser.find_element(By.ID, "differences").text
    assert "seen minus seen" in text
    assert "+0.00" in text
    assert browser.find_element(By.ID, "learning").find_elements(By.CSS_SELECTOR, ".scatterlayer .lines path")
    assert requests(browser) == [page.as_uri()]
    assert complaints(browser) == []


# MLflow's pages


@pytest.fixture
def pages(server: Served, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The addresses that are printed for a study whose store is a real server, by name."""
    uri, _ = server
    capsys.readouterr()
    assert main(["sync", str(folder), "--tracking-uri", uri]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {words[0]: words[1] for words in printed if len(words) == 2 and words[1].startswith(uri)}


def test_the_printed_addresses_lead_to_the_trials_and_to_a_comparison_of_the_best(
    browser: webdriver.Chrome, folder: Path, pages: dict[str, str]
) -> None:
    study = read_study(folder)
    ranked = study.ranking.trials
    browser.set_window_size(1900, 1000)

    def texts(selector: str) -> list[str]:
        return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]

    def waited_for(selector: str, count: int) -> list[str]:
        WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(
            lambda driver: sum(map(bool, texts(selector))) >= count
        )
        return texts(selector)

    browser.get(pages["Trials"])
    names = waited_for("[role=row] [col-id='attributes.`Run Name`'] a", len(ranked))
    assert {*names} == {format_run_name(record) for record in ranked}
    columns = [e.get_attribute("col-id") for e in browser.find_elements(By.CSS_SELECTOR, ".ag-header-cell")]
    wanted = ["metrics.`average_accuracy`", "metrics.`average_forgetting`"]
    wanted += [f"params.`{name}`" for name in study.space]
    assert {*wanted, "tags.`state`"} < set(columns)
    cells = "[role=gridcell][col-id='metrics.`average_accuracy`']"
    scores = [float(waited_for(f"[row-index='{row}'] {cells}", 1)[0]) for row in range(len(ranked))]
    assert scores == pytest.approx([record.metrics["average_accuracy"] for record in ranked], abs=1e-6)

    browser.get(pages["Compare"])
    assert "Comparing 6 Runs" in waited_for("h1, h2", 1)[0]
    axes = waited_for(".parcoords .axis-title", 3)
    assert {"LOG10 factor", "LOG10 temperature", "average_accuracy"} < set(axes)


def test_a_comparison_shows_the_numbers_and_choices_in_which_trials_differ(
    browser: webdriver.Chrome, mixed: Path, server: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, _ = server
    capsys.readouterr()
    assert main(["sync", str(mixed), "--tracking-uri", uri]) == 0
    (page,) = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("Compare")]
    browser.get("about:blank")  # MLflow does not load another comparison if only the address's fragment differs
    browser.get(page)
    WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(
        lambda driver: any(e.text for e in driver.find_elements(By.CSS_SELECTOR, ".parcoords .axis-title"))
    )
    axes = {element.text for element in browser.find_elements(By.CSS_SELECTOR, ".parcoords .axis-title")}
    assert {"LOG10 batch_size", "LOG10 factor", "LOG10 learning_rate"} <= axes
