"""The page as a user has it: real clicks in Chromium, on a model that draws in moments."""

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.serve.browser import CHROMIUM, PATIENCE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="gradio is not installed")
if not CHROMIUM.is_file():
    pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One visitor, whose browser has the page's scripts in store."""
    made = browser.new_context(viewport={"width": 1280, "height": 1000})
    made.set_default_timeout(PATIENCE)
    yield made
    made.close()


def opened(context: BrowserContext, address: str) -> Page:
    made = context.new_page()
    made.goto(address)
    made.wait_for_selector("#generate")
    return made


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """A page of its own; whatever it asks of another machine fails the test."""
    made = context.new_page()
    asked: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    made.goto(address)
    made.wait_for_selector("#generate")
    yield made
    made.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert asked
    assert elsewhere == []


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def generate(page: Page, prompt: str, number: int = 1, seed: str = "") -> None:
    page.fill("#prompt textarea", prompt)
    page.fill("#number input[type=number]", str(number))
    page.fill("#seed input, #seed textarea", seed)
    page.click("#generate")


def paint(page: Page, easel: str) -> None:
    """A stroke over the middle."""
    box = page.locator(f"{easel} canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert y < 1000, "the picture is out of sight"
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=10)
    page.mouse.up()


def blended(page: Page) -> bytes:
    """The pixels that Blend makes next."""
    shown = page.locator("#blend-gallery .thumbnail-lg img")
    before = shown.get_attribute("src") if shown.count() else ""
    page.click("#blend-go")
    expect(shown).not_to_have_attribute("src", before or "")
    with Image.open(io.BytesIO(page.request.get(shown.get_attribute("src") or "").body())) as picture:
        return picture.tobytes()


def slow(page: Page, steps: int = 20, size: str = "256x256") -> None:
    """Settings with which the small model takes a while."""
    page.click("#settings button >> nth=0")
    page.fill("#steps input[type=number]", str(steps))
    page.fill("#size input", size)
    page.keyboard.press("Enter")


def test_make_shows_pictures_their_seed_and_how_they_were_made(page: Page) -> None:
    generate(page, "a red circle", number=3, seed="7")
    expect(page.locator("#gallery .thumbnail-lg")).to_have_count(3)
    expect(page.locator("#status")).to_contain_text("seed 7")
    page.locator("#gallery .thumbnail-lg").nth(1).click()
    page.click("text=About the chosen picture")
    expect(page.locator("#about")).to_contain_text("a red circle")
    expect(page.locator("#about")).to_contain_text("ancestral")
    page.fill("#prompt textarea", "something else")
    page.click("#do-again")
    expect(page.locator("#prompt textarea")).to_have_value("a red circle")
    expect(page.locator("#number input[type=number]")).to_have_value("2")


def test_markup_and_control_characters_are_shown_and_do_nothing(page: Page) -> None:
    page.evaluate("window.harmed = false")
    prompt = "<img src=x onerror='window.harmed=true'><script>window.harmed=true</script> a red circle"
    generate(page, prompt)
    expect(page.locator("#gallery .thumbnail-lg")).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("does not know these words: <, img")  # the words that the model does not know
    page.locator("#gallery .thumbnail-lg").first.click()
    page.click("text=About the chosen picture")
    expect(page.locator("#about")).to_contain_text("<script>")
    assert page.evaluate("window.harmed") is False


def test_mistakes_get_a_sentence_where_the_user_looks(page: Page) -> None:
    said = page.locator("#status .tessera-error")
    for prompt, number, seed, sentence in (
        ("", 1, "", "The prompt is empty"),
        ("a" * 100_000, 1, "", "characters"),
        ("a red circle", 1, "-5", "whole number"),
        ("a red circle", 1, "9" * 40, "not a whole number"),
    ):
        generate(page, prompt, number, seed)
        expect(said).to_contain_text(sentence)
    page.click("#settings button >> nth=0")
    for steps in ("-5", "1000000"):
        field = page.locator("#steps input[type=number]")
        expect(field).to_have_value(re.compile(r"\d"))  # the settings are filled in once they are unfolded
        page.wait_for_timeout(500)
        field.fill(steps)
        field.press("Tab")
        expect(field).to_have_value(steps)
        generate(page, "a red circle")
        expect(said).to_contain_text(f"Steps must be a whole number from 0 to 1000, not {steps}")
    page.fill("#steps input[type=number]", "2")
    generate(page, "a red circle", 10**6)  # which the slider makes 16 before it is sent
    expect(page.locator("#number input[type=number]")).to_have_value("16")
    expect(page.locator("#gallery .thumbnail-lg")).to_have_count(16)


def test_a_picture_by_the_keyboard_alone(page: Page) -> None:
    """The prompt has the focus when the page opens; from there Tab leads to the buttons, and Shift+Enter draws too."""

    def until(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"Tab does not lead to {name}")

    expect(page.locator("#prompt textarea")).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a blue circle")
    until("generate")
    page.keyboard.press("Enter")
    expect(page.locator("#gallery .thumbnail-lg")).to_have_count(4)
    slow(page)
    page.fill("#number input[type=number]", "16")
    page.locator("#prompt textarea").focus()
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#status")).to_contain_text("step")
    until("stop")
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_contain_text("Stopped")


def test_stop_ends_a_run_in_its_middle(page: Page) -> None:
    slow(page)
    generate(page, "a red circle", number=16)
    expect(page.locator("#status")).to_contain_text("step")
    page.click("#stop")
    expect(page.locator("#status")).to_contain_text("Stopped")
    assert page.locator("#gallery .thumbnail-lg").count() < 16
    page.fill("#size input", "32x32")
    page.keyboard.press("Enter")
    generate(page, "a blue circle")
    expect(page.locator("#status")).to_contain_text("1 picture in")


def test_a_reload_in_the_middle_leaves_the_server_free(page: Page, address: str) -> None:
    slow(page)
    generate(page, "a red circle", number=16)
    expect(page.locator("#status")).to_contain_text("step")
    page.reload()
    page.wait_for_selector("#generate")
    generate(page, "a blue circle")
    expect(page.locator("#status")).to_contain_text("1 picture in")


def test_two_users_at_once_get_their_own(page: Page, browser: Browser, address: str) -> None:
    other = opened(browser.new_context(), address)
    generate(page, "a red circle", number=2, seed="1")
    generate(other, "a blue square", number=3, seed="2")
    for one, count, prompt, seed in ((page, 2, "a red circle", "seed 1"), (other, 3, "a blue square", "seed 2")):
        expect(one.locator("#gallery .thumbnail-lg")).to_have_count(count)
        expect(one.locator("#status")).to_contain_text(seed)
        one.locator("#gallery .thumbnail-lg").first.click()
        one.click("text=About the chosen picture")
        expect(one.locator("#about")).to_contain_text(prompt)
    other.context.close()


def test_the_settings_follow_the_model(page: Page) -> None:
    page.click("#settings button >> nth=0")
    expect(page.locator("#temperature")).to_be_visible()
    page.click("#model input")
    page.get_by_role("option", name="tiny-v", exact=True).click()
    expect(page.locator("#sampler input")).to_have_value("plms")
    expect(page.locator("#temperature")).to_be_hidden()
    generate(page, "a red circle:2 | blue")
    expect(page.locator("#gallery .thumbnail-lg")).to_have_count(1)


def test_a_model_of_four_flows_has_four_more_tabs(page: Page, tmp_path: Path) -> None:
    for name in ("Vary", "Caption", "Rewrite", "Blend"):
        expect(page.get_by_role("tab", name=name, exact=True)).to_be_hidden()
    page.click("#model input")
    page.get_by_role("option", name="tiny-four", exact=True).click()
    expect(page.get_by_role("tab", name="Rewrite", exact=True)).to_be_visible()
    tab(page, "Make")
    generate(page, "a red circle")
    page.locator("#gallery .thumbnail-lg").first.click()
    expect(page.locator("#do-vary")).to_be_enabled()
    page.click("#do-vary")
    page.wait_for_selector("#vary-source img")
    page.click("#vary-go")
    expect(page.locator("#vary-status")).to_contain_text("2 pictures in")
    tab(page, "Caption")
    page.click("#caption-go")
    expect(page.locator("#caption-status .tessera-error")).to_contain_text("choose one first")
    tab(page, "Make")
    page.click("#do-caption")
    page.wait_for_selector("#caption-source img")
    page.click("#caption-go")
    expect(page.locator("#caption-status")).to_contain_text("2 texts in")
    tab(page, "Rewrite")
    page.fill("#rewrite-words textarea", "a red circle")
    page.click("#rewrite-go")
    expect(page.locator("#rewrite-status")).to_contain_text("2 texts in")
    tab(page, "Make")
    page.click("#do-reword")
    page.wait_for_selector("#reword-source img")
    page.click("#reword-go")
    expect(page.locator("#reword-status .tessera-error")).to_contain_text("no words to take out or to put in")
    page.fill("#reword-remove textarea, #reword-remove input", "circle")
    page.fill("#reword-add textarea, #reword-add input", "blue")
    page.click("#reword-go")
    expect(page.locator("#reword-status")).to_contain_text("2 pictures in")
    tab(page, "Make")
    page.click("#do-blend")
    page.fill("#blend-words textarea", "a blue square")
    page.fill("#blend-seed textarea, #blend-seed input", "7")
    page.fill("#blend-number input[type=number]", "1")
    page.wait_for_selector("#blend-first canvas")
    first = blended(page)
    assert blended(page) == first
    page.fill("#blend-first-focus input[type=number]", "1")
    focused = blended(page)
    assert focused != first
    paint(page, "#blend-first")
    painted = blended(page)
    assert painted != focused
    page.click("#blend-fourth-more button >> nth=0")
    Image.effect_noise((40, 33), 80).convert("RGB").save(tmp_path / "given.png")
    page.locator("#blend-fourth input[type=file]").first.set_input_files(tmp_path / "given.png")
    page.wait_for_selector("#blend-fourth canvas")
    beside = blended(page)
    assert beside != painted
    page.fill("#blend-fourth-strength input[type=number]", "0.5")
    assert blended(page) != beside


def test_edit_repaints_what_is_painted_over(page: Page) -> None:
    generate(page, "a red circle")
    page.locator("#gallery .thumbnail-lg").first.click()
    expect(page.locator("#do-edit")).to_be_enabled()
    page.click("#do-edit")
    expect(page.locator("#edit-status")).to_contain_text("32x32")
    page.click("#edit-go")
    expect(page.locator("#edit-status .tessera-error")).to_contain_text("Nothing is painted over")
    paint(page, "#easel")
    page.fill("#edit-prompt textarea", "a blue square")
    page.click("#edit-go")
    expect(page.locator("#edit-gallery .thumbnail-lg, #edit-gallery img").first).to_be_visible()
    expect(page.locator("#edit-status")).to_contain_text("1 picture in")


def test_edit_extends_and_changes_an_uploaded_picture(page: Page, tmp_path: Path) -> None:
    tab(page, "Edit")
    Image.effect_noise((40, 33), 80).convert("RGB").save(tmp_path / "given.png")
    with page.expect_file_chooser() as chooser:
        page.click("#edit-source")
    chooser.value.set_files(tmp_path / "given.png")
    expect(page.locator("#edit-status")).to_contain_text("scaled and cropped")
    page.get_by_label("Extend the canvas").check()
    page.fill("#edit-by input[type=number]", "32")
    page.click("#edit-go")
    expect(page.locator("#edit-status")).to_contain_text("1 picture in")
    page.get_by_label("Change the whole picture").check()
    page.click("#edit-go")
    expect(page.locator("#edit-status")).to_contain_text("1 picture in")


def test_uploads_that_are_no_pictures(page: Page, tmp_path: Path) -> None:
    tab(page, "Enlarge")
    (tmp_path / "no.png").write_bytes(b"GIF89a is not what this is")
    page.set_input_files("#enlarge-source input[type=file]", tmp_path / "no.png")
    page.click("#enlarge-go")
    expect(page.locator("#enlarge-status .tessera-error")).to_contain_text("not a readable picture")


def test_enlarge(page: Page, tmp_path: Path) -> None:
    tab(page, "Enlarge")
    Image.effect_noise((40, 30), 80).convert("RGB").save(tmp_path / "given.png")
    page.set_input_files("#enlarge-source input[type=file]", tmp_path / "given.png")
    page.wait_for_selector("#enlarge-source img")
    page.click("#enlarge-go")
    expect(page.locator("#enlarge-status")).to_contain_text("160x120")
    expect(page.locator("#enlarged img")).to_be_visible()


def test_watch(page: Page) -> None:
    tab(page, "Watch")
    page.fill("#watch-prompt textarea", "a red circle")
    page.click("#watch-go")
    expect(page.locator("#watch-film img")).to_be_visible()
    expect(page.locator("#watch-file")).to_contain_text(re.compile(r"\.webp"))


def test_compare_the_six_methods(page: Page) -> None:
    tab(page, "Compare")
    page.fill("#compare-prompts textarea", "a red circle\na blue square")
    page.fill("#compare-steps input, #compare-steps textarea", "5")
    page.click("#compare-six")
    expect(page.locator("#compare-grid img")).to_have_count(12)
    expect(page.locator("#compare-grid")).to_contain_text("calls")
    expect(page.locator("#compare-png")).to_contain_text("comparison")
    expect(page.locator("#compare-csv")).to_contain_text("comparison")


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("#generate")
    for name in ("Make", "Edit", "Watch"):
        found = page.get_by_role("tab", name=name, exact=True)
        if found.is_visible():
            found.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("tab", name="Make", exact=True).click()
    generate(page, "a red circle", number=4)
    expect(page.locator("#gallery .thumbnail-lg")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.classList.contains('dark')")
    context.close()


def test_every_control_has_a_name(page: Page) -> None:
    page.click("#model input")
    page.get_by_role("option", name="tiny-four", exact=True).click()
    expect(page.get_by_role("tab", name="Rewrite", exact=True)).to_be_visible()
    page.click("#settings button >> nth=0")
    for name in page.locator("[role=tablist] [role=tab]").all_inner_texts():
        page.get_by_role("tab", name=name, exact=True).first.click()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, select, button')].filter(one =>
                one.offsetParent !== null && one.type !== 'file' && !one.labels?.length && !one.getAttribute('aria-label')
                && !one.getAttribute('aria-labelledby') && !one.title && !one.innerText && !one.closest('label'))
                .map(one => one.outerHTML.slice(0, 200))"""
        )
        assert nameless == [], name


def test_eight_pages_at_once(context: BrowserContext, address: str) -> None:
    """All are served, each with its own pictures."""
    pages = [opened(context, address) for _ in range(8)]
    for number, page in enumerate(pages):
        generate(page, f"a {['red', 'blue'][number % 2]} circle", seed=str(100 + number))
    for number, page in enumerate(pages):
        expect(page.locator("#status")).to_contain_text(f"seed {100 + number}")
        expect(page.locator("#gallery .thumbnail-lg")).to_have_count(1)
    for page in pages:
        page.close()
    assert threading.active_count() < 50
