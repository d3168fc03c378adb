"""A picture of the studio as it looks after a scene was made:

python scripts/screenshot.py OUT.jpg [--generator G] [--prompt TEXT] [--seed N] [--set-metadata gsd_m=1]
    [--map edges=FILE]

It needs Chromium with its driver, and selenium (the extra `dev`).
"""

import argparse
import shutil
import time
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from terradistill.generation.orders import parse_metadata
from terradistill.studio.page import opened

PATIENCE = 120  # seconds


def main() -> None:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--generator", default="base-128")
    parser.add_argument("--prompt", default="a satellite image of a river")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set-metadata", default="")
    parser.add_argument("--map", metavar="NAME=FILE")
    asked = parser.parse_args()

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "window-size=1300,1180"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))

    # While the page is being redrawn, elements are not there or out of date.
    wait = WebDriverWait(browser, PATIENCE, ignored_exceptions=[WebDriverException, IndexError, StopIteration])

    def find(css: str) -> list[Any]:
        return list(browser.find_elements("css selector", css))

    def known(panel: str, control: str, _: object) -> bool:
        """Whether a control is there; else its part of the page is opened, which may not listen yet."""
        if not find(control):
            next(each for each in find("button") if panel in each.text).click()
            time.sleep(1)
        return bool(find(control)[0].is_displayed())

    try:
        with opened(asked.generator) as address:
            browser.get(address)
            wait.until(lambda _: find("#prompt textarea"))[0].send_keys(asked.prompt)
            for name, value in parse_metadata(asked.set_metadata).items():
                wait.until(partial(known, "known of the place", f"#knows-{name} input"))
                find(f"#knows-{name} input")[0].click()
                number = find(f"#{name} input[type=number]")[0]
                number.send_keys(Keys.CONTROL, "a")
                number.send_keys(f"{value:g}", Keys.TAB)
            if asked.map is not None:
                name, _, file = asked.map.partition("=")
                wait.until(partial(known, "map to follow", "#map-name input"))
                find("#map-name input")[0].send_keys(Keys.CONTROL, "a")
                find("#map-name input")[0].send_keys(name, Keys.ENTER)
                find("#canvas input[type=file]")[0].send_keys(str(Path(file).resolve()))
                time.sleep(2)
            field = find("#seed input")[0]
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(str(asked.seed), Keys.TAB)
            find("#draw")[0].click()
            wait.until(lambda _: len(find("#gallery img")) >= 4 and "images" in find("#note")[0].text)
            time.sleep(1)
            browser.execute_script("window.scrollTo(0, 0)")
            with Image.open(BytesIO(browser.get_screenshot_as_png())) as picture:
                picture.convert("RGB").save(asked.out, quality=88)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
