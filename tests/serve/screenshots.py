"""Takes the screenshots of docs/serve.md with the included model.

python -m tests.serve.screenshots docs
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.serve.browser import CHROMIUM, PATIENCE, served


def make(page: Page, seed: str = "3") -> None:
    page.fill("#prompt textarea", "two green stars on a white background\na red circle above a blue square")
    page.fill("#seed input, #seed textarea", seed)
    page.fill("#number input[type=number]", "4")
    page.click("#generate")
    page.wait_for_selector("#gallery .thumbnail-lg >> nth=7")


def take(page: Page, folder: Path) -> None:
    page.set_default_timeout(PATIENCE)
    page.fill("#prompt textarea", "a red circle above a blue square")
    page.click("#generate")
    page.wait_for_selector("#status .previews img")
    page.wait_for_function("parseInt(document.querySelector('#status [role=progressbar]')?.getAttribute('aria-valuenow') ?? 0) > 30")
    page.screenshot(path=folder / "serve-preview.png")
    page.wait_for_selector("#gallery .thumbnail-lg >> nth=3")
    make(page)
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "serve-make.png")
    page.locator("#gallery .thumbnail-lg").nth(5).click()
    page.wait_for_selector("#do-edit:not([disabled])")
    page.click("#do-edit")
    page.wait_for_selector("#easel canvas")
    page.wait_for_timeout(4000)
    box = page.locator("#easel canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.72
    for row in range(5):
        page.mouse.move(x - 110, y + 22 * (row - 2))
        page.mouse.down()
        page.mouse.move(x + 110, y + 22 * (row - 2), steps=8)
        page.mouse.up()
    page.fill("#edit-prompt textarea", "a red circle above a green star")
    page.click("#edit-go")
    page.wait_for_selector("#edit-gallery img")
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "serve-edit.png")
    page.get_by_role("tab", name="Watch", exact=True).click()
    page.fill("#watch-seed input, #watch-seed textarea", "5")
    page.click("#watch-go")
    page.wait_for_selector("#watch-film img")
    page.wait_for_timeout(2600)
    page.screenshot(path=folder / "serve-watch.png")
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.fill("#compare-steps input, #compare-steps textarea", "50")
    page.click("#compare-six")
    page.wait_for_selector("#compare-png:has-text('comparison')")
    page.wait_for_timeout(1000)
    page.screenshot(path=folder / "serve-compare.png", full_page=True)


def main() -> None:
    folder = Path(sys.argv[1])
    with served() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        page = browser.new_page(viewport={"width": 1180, "height": 920})
        page.goto(address)
        page.wait_for_selector("#generate")
        take(page, folder)
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        phone.set_default_timeout(PATIENCE)
        phone.goto(address)
        phone.wait_for_selector("#generate")
        phone.screenshot(path=folder / "serve-phone.png")
        make(phone)
        phone.wait_for_timeout(1500)
        phone.locator("#status").scroll_into_view_if_needed()
        phone.evaluate("document.querySelector('#status').scrollIntoView()")
        phone.wait_for_timeout(500)
        phone.screenshot(path=folder / "serve-phone-pictures.png")
        browser.close()


if __name__ == "__main__":
    main()
