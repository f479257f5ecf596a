"""The page in a real browser, against a real service."""

from __future__ import annotations

import os
import shutil

import pytest
from running import served

from hashfaiss.library.image_index import ImageIndex

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        with_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=with_root)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    trouble = []
    page.on(
        "console", lambda said: said.type == "error" and "status of 422" not in said.text and trouble.append(said.text)
    )
    page.on("pageerror", lambda error: trouble.append(str(error)))
    yield page
    context.close()
    assert not [text for text in trouble if "status of 422" not in text]


def seen(page: Page) -> None:
    """Waits until the first picture is there."""
    expect(page.locator("#grid img").first).to_have_js_property("complete", True)
    assert page.locator("#grid img").first.evaluate("one => one.naturalWidth") > 0


def ids(page: Page, where: str = "#grid") -> list[int]:
    links = page.locator(f"{where} .path a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    return [int(link.rsplit("/", 1)[1]) for link in links]


def test_a_person_searches(standing, page):
    photos, url = standing
    index = ImageIndex.open(photos.parent / "x.index", device="cpu")
    asked = photos / "cat" / "0.jpg"
    page.goto(url)
    seen(page)
    expect(page.locator("#summary")).to_have_text("x.index: 12 images, 20 bits, dhida")
    assert ids(page) == index.store.ids().tolist()
    page.set_input_files("#file", asked)  # chosen
    expect(page.locator("#results")).to_have_text("The 12 nearest, exact")
    nearest = [hit.id for hit in index.query(str(asked), 12)]
    assert ids(page) == nearest
    badges = page.locator("#grid .badge").all_inner_texts()
    assert badges == [str(hit.distance) for hit in index.query(str(asked), 12)]
    last = page.locator("#grid svg.bits").last
    differ = int(badges[-1])
    assert len(last.locator("path.differs").get_attribute("d").split("M")) - 1 == differ

    page.fill("#label", "dog")  # filtered
    expect(page.locator("#results")).to_have_text("The 4 nearest, exact")
    assert ids(page) == [hit.id for hit in index.query(str(asked), 12, labels="dog")]
    page.fill("#label", "")
    page.check("[name=mode][value=radius]")
    page.locator("#radius").fill("6")
    within = [hit.id for hit in index.within(str(asked), 6)]
    expect(page.locator("#results")).to_have_text(f"{len(within)} within 6 bits, exact")
    assert ids(page) == within

    page.check("[name=mode][value=k]")
    page.locator("#k").fill("5")
    expect(page.locator("#results")).to_have_text("The 5 nearest, exact")
    other = ids(page)[-1]
    page.locator("#grid .tile > button").last.click()  # clicked
    page.wait_for_url(f"**/#id={other}")
    assert ids(page) == [hit.id for hit in index.query(other, 5)]
    page.reload()
    seen(page)
    assert ids(page)[0] == other
    page.fill("#under", "nowhere/*")
    expect(page.locator("#said")).to_contain_text("no image of the index has path 'nowhere/*'")


PASTE = """async (name) => {
  const data = await (await fetch('image/3')).blob();
  const given = new DataTransfer();
  given.items.add(new File([data], 'given.png', { type: data.type }));
  const event = name === 'paste' ? new ClipboardEvent('paste', { clipboardData: given, bubbles: true })
    : new DragEvent('drop', { dataTransfer: given, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped(standing, page, way):
    _, url = standing
    page.goto(url)
    seen(page)
    page.evaluate(PASTE, way)
    expect(page.locator("#query-name")).to_have_text("given.png")
    expect(page.locator("#grid .badge").first).to_have_text("0")
    assert ids(page)[0] == 3
    page.click("#clear")
    expect(page.locator("#results")).to_have_text("All images")


def test_the_keyboard_is_enough(standing, page):
    _, url = standing
    page.goto(url)
    seen(page)
    page.locator("#grid .tile > button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#id=1")
    page.locator("#tab-search").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#view-near")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#facts")).to_contain_text("distinct codes")
    unnamed = page.locator("button:visible, input:visible, a:visible, img:visible").evaluate_all(
        "all => all.filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length"
        " || one.hasAttribute('alt') || one.getAttribute('aria-hidden'))).map(one => one.outerHTML)"
    )
    assert not unnamed


def test_duplicates_are_ticked_and_taken_along(standing, page):
    _, url = standing
    page.goto(url)
    page.click("#tab-near")
    page.locator("#near").fill("9")
    page.click("text=Find groups")
    expect(page.locator(".group").first).to_be_visible()
    page.click("#tick-all")
    boxes = page.locator("#groups input")
    wanted = [box for box in boxes.all() if box.get_attribute("data-place") != "0"]
    assert wanted
    assert all(box.is_checked() for box in wanted)
    with page.expect_download() as got:
        page.click("#download")
    listed = got.value.path().read_text().splitlines()
    assert listed == [box.get_attribute("value") for box in wanted]
    page.click("#tick-none")
    expect(page.locator("#download")).to_be_disabled()


def test_names_are_text_and_a_list_holds_no_path_that_would_name_other_files(encoder, photos, page):
    data = (photos / "cat" / "0.jpg").read_bytes()
    for name in (b"<img src=x onerror=alert(1)>.jpg", b"two\nlines.jpg", b"no\xfftext.jpg"):
        (photos / "cat" / os.fsdecode(name)).write_bytes(data)
    encoder.to_index(photos, photos.parent / "odd.index")
    with served(photos.parent / "odd.index") as (_, url):
        page.goto(url)
        seen(page)
        assert page.locator("#grid .path b").filter(has_text="<img src=x").count() == 1
        page.click("#tab-near")
        page.click("text=Find groups")
        expect(page.locator(".group").first).to_be_visible()
        off = page.locator("#groups input:disabled").evaluate_all("all => all.map(one => one.value)")
        assert len(off) == 2
        page.click("#tick-all")
        with page.expect_download() as got:
            page.click("#download")
        assert all(os.path.exists(path) for path in got.value.path().read_text().splitlines())


def test_on_a_phone_nothing_is_wider_than_the_screen(standing, browser):
    _, url = standing
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)
    page = context.new_page()
    page.goto(f"{url}#id=3")
    expect(page.locator("#grid .badge").first).to_be_visible()
    for tab in ("search", "near", "facts"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_the_token_is_asked_for(folder, browser):
    context = browser.new_context()
    page = context.new_page()
    with served(folder, "--token", "a-token-of-24-characters") as (_, url):
        page.goto(url)
        page.fill("#token", "wrong")
        page.click("#login-form button")
        expect(page.locator("#login-said")).to_contain_text("not the token")
        page.fill("#token", "a-token-of-24-characters")
        page.click("#login-form button")
        seen(page)
        expect(page.locator("#login")).to_be_hidden()
    context.close()
