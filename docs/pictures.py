"""Make the pictures of docs/gallery.md from studies that have run: `python docs/pictures.py results`.

Needs Chromium and chromedriver, and the dev packages (selenium).
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

IMAGES = Path(__file__).parent / "images"

SECTIONS = {
    "lwf_temperature_sweep": ("top", "parallel"),
    "ewc_penalty_sweep": ("tasks", "matrix"),
    "amnesiac_lwf": ("top", "unlearning"),
}
"""Study -> sections of its report; `top` is the first page."""

FILES = {"lwf_temperature_sweep": "response", "ewc_penalty_sweep": "response", "amnesiac_lwf": "front"}
"""Study -> picture of its folder."""

DRAWN_IN = 5
"""Seconds that plotly needs at most to draw a page."""


def save(picture: Image.Image, name: str) -> None:
    """Write a picture with few colours, which is small."""
    path = IMAGES / f"{name}.png"
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size // 1000} kB)")


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for option in ("headless=new", "no-sandbox", "hide-scrollbars", "window-size=1100,1300"):
        options.add_argument(f"--{option}")
    return webdriver.Chrome(options=options)


def main(results: Path) -> None:
    driver = browser()
    for study, sections in SECTIONS.items():
        driver.get((results / study / "report.html").resolve().as_uri())
        time.sleep(DRAWN_IN)
        for section in sections:
            shown = driver if section == "top" else driver.find_element(By.ID, section)
            png = shown.get_screenshot_as_png() if section == "top" else shown.screenshot_as_png
            save(Image.open(io.BytesIO(png)), f"{study}_{section}")
    driver.quit()
    for study, name in FILES.items():
        save(Image.open(results / study / f"{name}.png"), f"{study}_{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
