"""The page in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.stand_ins import digits, encoded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'kdhash[test]'")

expect = playwright.expect
expect.set_options(timeout=20_000)

DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}

REFUSED = re.compile("responded with a status of (415|422|500)")  # browsers log what the page tells its user


@pytest.fixture(scope="module")
def address(index_folder):
    command = [sys.executable, "-m", "tests.serve.serving", str(index_folder), "0"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # as root, which CI often is, Chromium has no sandbox
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """open_page(**options of a browser context) -> the page; fails on any error or request to elsewhere."""
    contexts, troubles = [], []

    def open_one(path="", **options):
        context = browser.new_context(**(DESKTOP | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda said: (
                said.type == "error" and not REFUSED.search(said.text) and troubles.append(said.text)
            ),
        )
        page.on("request", lambda sent: sent.url.startswith((address, "blob:")) or troubles.append(sent.url))
        page.goto(address + path)
        page.wait_for_selector("a.card, #error:not([hidden])")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert troubles == []


def drop(page, data, name="seven.png"):
    """Drops a file onto the page."""
    page.evaluate(
        """([bytes, name]) => {
            const moved = new DataTransfer();
            moved.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            for (const kind of ["dragenter", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: moved}));
        }""",
        [list(data), name],
    )


def first_results(page, count=3):
    page.wait_for_selector(".query:not([hidden])")
    return [int(card.get_attribute("data-number")) for card in page.locator("a.card").all()[:count]]


def heading(page, text):
    expect(page.locator("#heading")).to_contain_text(text)


def test_drop_a_picture_read_the_results_and_search_on(open_page, index, picture, tmp_path):
    page = open_page()
    drop(page, picture)
    heading(page, "24 results")
    assert first_results(page)[0] == 7
    first = page.locator("a.card").first
    assert first.locator(".distance").inner_text().split() == ["0", "apart", "64", "agree"]
    assert "encoded in" in page.locator(".latency").inner_text()
    assert page.locator(".query h2").inner_text() == "seven.png"
    # the bits that differ, of the second result
    second = page.locator("a.card").nth(1)
    distance = int(second.locator(".distance strong").inner_text())
    drawn = second.locator(".strip .different").get_attribute("d")
    assert drawn.count("M") == distance > 0
    number = int(second.get_attribute("data-number"))
    second.click()
    page.wait_for_selector(".query dl")
    assert f"digits/{number}.png" in page.locator(".query").inner_text()
    assert "nothing to encode" in page.locator(".latency").inner_text()
    expected = index.search(index.codes_of([number]), k=4).numbers[0].tolist()
    assert first_results(page) == [one for one in expected if one != number][:3]
    page.go_back()
    heading(page, "24 results")
    expect(page.locator(".query h2")).to_have_text("seven.png")
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_choose_and_paste_a_picture(open_page):
    page = open_page()
    one, two = (encoded(picture) for picture in digits(12)[0][[3, 11]])
    page.set_input_files("#file", {"name": "three.png", "mimeType": "image/png", "buffer": one})
    expect(page.locator(".query h2")).to_have_text("three.png")
    assert first_results(page)[0] == 3
    page.evaluate(
        """bytes => {
            const pasted = new DataTransfer();
            pasted.items.add(new File([new Uint8Array(bytes)], "eleven.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: pasted, bubbles: true}));
        }""",
        list(two),
    )
    expect(page.locator(".query h2")).to_have_text("eleven.png")
    assert first_results(page)[0] == 11


def test_text_sliders_and_filter(open_page):
    page = open_page()
    page.fill("#text", "a seven")
    page.press("#text", "Enter")
    heading(page, "24 results")
    page.locator("#k").fill("5")
    heading(page, "5 results")
    page.fill("#where", 'label = "3"')
    page.press("#where", "Enter")
    expect(page.locator("#note")).to_contain_text("filtered")
    assert {title.inner_text() for title in page.locator(".card .title").all()} == {"3"}
    page.locator("#radius").fill("0")
    heading(page, "Nothing found")
    assert "Allow more distance, or loosen the filter." in page.locator("#note").inner_text()
    assert "text=a+seven" in page.url
    page.reload()  # the address holds all of it
    heading(page, "Nothing found")
    assert page.input_value("#where") == 'label = "3"'
    page.locator("#radius").fill("64")
    page.fill("#where", "")
    page.press("#where", "Enter")
    heading(page, "5 results")


def test_an_example_fills_the_filter(open_page):
    page = open_page("?number=3")
    example = page.locator("#examples button").first
    text = example.inner_text()
    example.click()
    expect(page.locator("#note")).to_contain_text("filtered")
    assert page.input_value("#where") == text


def test_mistakes_are_told_where_they_were_made(open_page):
    page = open_page("?number=3")
    page.fill("#where", "label = 3")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-error:not([hidden])")
    assert "label" in page.locator("#where-error").inner_text()
    assert page.get_attribute("#where", "aria-invalid") == "true"
    page.fill("#where", "")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-error", state="hidden")
    drop(page, b"no picture at all", "notes.png")
    expect(page.locator("#error")).to_contain_text("none of JPEG")
    assert page.locator("#error").get_attribute("role") == "alert"


def test_the_keyboard_is_enough(open_page):
    page = open_page("?number=3")
    heading(page, "24 results")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    focused = "document.activeElement.dataset.number"
    cards = [card.get_attribute("data-number") for card in page.locator("a.card").all()]
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
    )
    places = [
        ("ArrowDown", 0),
        ("ArrowRight", 1),
        ("ArrowDown", columns + 1),
        ("ArrowLeft", columns),
        ("ArrowUp", 0),
    ]
    for key, place in places:
        page.keyboard.press(key)
        assert page.evaluate(focused) == cards[place], (key, place)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/?number={cards[1]}")
    expect(page.locator(".query dl")).to_contain_text(f"digits/{cards[1]}.png")
    page.keyboard.press("Escape")
    heading(page, "start from one of these")
    assert page.locator("#query").is_hidden()


def test_near_duplicates(open_page, address):
    page = open_page()
    page.click("#to-duplicates")
    page.locator("#duplicates-radius").fill("8")
    page.wait_for_url("**bits=8")
    page.wait_for_selector(".group a.card")
    groups = json.loads(page.request.get(address + "duplicates?radius=8").text())["groups"]
    expect(page.locator(".group")).to_have_count(len(groups))
    heading(page, f"{len(groups)} groups")
    shown = [
        [int(card.get_attribute("data-number")) for card in group.locator("a.card").all()]
        for group in page.locator(".group").all()
    ]
    assert shown == [[item["number"] for item in group["items"]] for group in groups]
    assert page.get_attribute("#to-duplicates", "aria-current") == "page"
    page.locator(".group a.card").first.click()
    page.wait_for_selector(".query dl")
    assert page.locator("#form #text").is_visible()
    assert page.get_attribute("#to-search", "aria-current") == "page"


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_can_read_and_reach_it(open_page, options, scheme):
    page = open_page("?number=3&where=" + "width+%3E+32", **options, color_scheme=scheme)
    heading(page, "24 results")
    assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    if options is PHONE:
        page.click("#more")
        assert page.get_attribute("#more", "aria-expanded") == "true"
    page.wait_for_selector("#where", state="visible")
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(PALE) == []
    assert page.evaluate("[...document.images].filter((image) => !image.hasAttribute('alt')).length") == 0
    if options is DESKTOP:
        order = []
        for _ in range(17):
            page.keyboard.press("Tab")
            order.append(
                page.evaluate(
                    "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
                )
            )
        assert order[:6] == ["skip", "name", "to-search", "to-duplicates", "file", "text"]
        assert (
            order.index("where")
            < order.index("k")
            < order.index("radius")
            < order.index("quiet clear")
            < order.index("card")
        )
    folder = os.environ.get("KDHASH_SCREENS")
    if folder:
        name = "phone" if options is PHONE else "desktop"
        page.screenshot(path=Path(folder) / f"{name}_{scheme}.png")


# controls that have neither a label, nor a name, nor a text
NAMELESS = """[...document.querySelectorAll("a, button, input, output, section, nav, [role=group]")]
    .filter((node) => !(node.labels?.length || node.ariaLabel || node.getAttribute("aria-labelledby") || node.textContent.trim()))
    .map((node) => node.outerHTML.slice(0, 80))"""
# texts with a contrast below 4.5 : 1 (WCAG AA)
PALE = """(() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = rgb(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const pale = [];
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
        if (!own || !node.checkVisibility() || node.closest(".drop")) continue;
        const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) pale.push(`${node.tagName}.${node.className} ${contrast.toFixed(2)}`);
    }
    return pale;
})()"""


@pytest.mark.parametrize("arguments", [["none"], ["image"]])
def test_only_what_the_model_can_do_is_offered(open_page, arguments, index_folder):
    """Without a model no picture can be chosen, without a text tower no text typed."""
    page = open_page()
    kinds = {"none": None, "image": {"hash": "a", "kind": "image", "size": 16, "texts": False}}

    def answer(route):
        facts = json.loads(route.fetch().text())
        route.fulfill(json=facts | {"model": kinds[arguments[0]]})

    page.route("**/info", answer)
    page.reload()
    page.wait_for_selector("a.card")
    assert page.locator("#text-field").is_hidden()
    assert page.locator("#picture").is_visible() == (arguments[0] == "image")
    heading(page, "Or start" if arguments[0] == "image" else "Start")
    page.locator("a.card").first.click()
    heading(page, "24 results")


def test_a_server_that_has_gone_is_told(open_page):
    page = open_page()
    page.route(
        "**/search", lambda route: route.fulfill(status=500, json={"error": "e", "message": "it broke"})
    )
    page.locator("a.card").first.click()
    expect(page.locator("#error")).to_have_text("it broke")
