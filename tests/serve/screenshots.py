"""Takes the screenshots of docs/serve.md with the included model.

python -m tests.serve.screenshots docs [make] [edit] [watch] [compare] [phone]
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.serve.browser import CHROMIUM, PATIENCE, served


def draw(page: Page, number: int) -> None:
    page.fill("#prompt textarea", "two green stars on a white background\na red circle above a blue square")
    page.fill("#seed input, #seed textarea", "3")
    page.fill("#number input[type=number]", str(number))
    page.click("#generate")


def make(page: Page, folder: Path) -> None:
    draw(page, 4)
    page.wait_for_selector("#status .previews img")
    page.wait_for_function("parseInt(document.querySelector('#status [role=progressbar]')?.getAttribute('aria-valuenow') ?? 0) > 30")
    page.screenshot(path=folder / "serve-preview.png")
    page.wait_for_selector("#gallery .thumbnail-lg >> nth=7")
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "serve-make.png")


def edit(page: Page, folder: Path) -> None:
    draw(page, 1)
    page.wait_for_selector("#gallery .thumbnail-lg >> nth=1")
    page.locator("#gallery .thumbnail-lg").nth(0).click()
    page.wait_for_selector("#do-edit:not([disabled])")
    page.click("#do-edit")
    page.wait_for_selector("#easel canvas")
    page.wait_for_timeout(8000)
    box = page.locator("#easel canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.72
    for row in range(5):
        page.mouse.move(x - 110, y + 22 * (row - 2))
        page.mouse.down()
        page.mouse.move(x + 110, y + 22 * (row - 2), steps=8)
        page.mouse.up()
    page.fill("#edit-prompt textarea", "a red square below a green star on a white background")
    page.fill("#edit-seed input, #edit-seed textarea", "1")
    page.click("#edit-go")
    page.wait_for_selector("#edit-gallery img")
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "serve-edit.png")


def watch(page: Page, folder: Path) -> None:
    page.get_by_role("tab", name="Watch", exact=True).click()
    page.fill("#watch-seed input, #watch-seed textarea", "5")
    page.fill("#watch-seconds input[type=number]", "8")
    page.click("#watch-go")
    page.wait_for_selector("#watch-film img")
    page.wait_for_timeout(3000)
    page.screenshot(path=folder / "serve-watch.png")


def compare(page: Page, folder: Path) -> None:
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.fill("#compare-steps input, #compare-steps textarea", "50")
    page.click("#compare-six")
    page.wait_for_selector("#compare-png:has-text('comparison')")
    page.wait_for_timeout(1000)
    page.screenshot(path=folder / "serve-compare.png", full_page=True)


def phone(page: Page, folder: Path) -> None:
    page.screenshot(path=folder / "serve-phone.png")
    draw(page, 2)
    page.wait_for_selector("#gallery .thumbnail-lg >> nth=3")
    page.wait_for_timeout(1500)
    page.evaluate("document.querySelector('#status').scrollIntoView()")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "serve-phone-pictures.png")


SHOTS = {"make": make, "edit": edit, "watch": watch, "compare": compare, "phone": phone}


def main() -> None:
    folder, wanted = Path(sys.argv[1]), sys.argv[2:] or list(SHOTS)
    with served() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        for name in wanted:
            small = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
            page = browser.new_page(**(small if name == "phone" else {"viewport": {"width": 1180, "height": 1000}}))
            page.set_default_timeout(5 * PATIENCE)
            page.goto(address)
            page.wait_for_selector("#generate")
            SHOTS[name](page, folder)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
