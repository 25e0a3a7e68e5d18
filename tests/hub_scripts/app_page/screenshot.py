"""Draws docs/app.png: the page over an index, after a search, a click and a question.

python -m tests.hub_scripts.app_page.screenshot INDEX docs/app.png --words "cat face"
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from hub_scripts.app import open_app


CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1280, "height": 1010}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", default="red apple")
    parser.add_argument("--question", default="What is this?")
    arguments = parser.parse_args()
    with open_app(arguments.index) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.locator("#words textarea, #words input").fill(arguments.words)
        page.locator("#search").click()
        page.locator(".card").first.click()
        page.wait_for_selector("#hand .hand")
        page.locator("#question textarea, #question input").fill(arguments.question)
        page.locator("#ask-button").click()
        page.wait_for_selector("#answer .answer")
        page.locator("#search").click()
        page.wait_for_selector("text=“")
        page.mouse.move(640, 5)
        page.wait_for_timeout(1000)  # until nothing moves any more
        with tempfile.TemporaryDirectory() as folder:
            page.screenshot(path=Path(folder, "page.png"))
            image = Image.open(Path(folder, "page.png")).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        image.save(arguments.out, optimize=True)
        browser.close()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
