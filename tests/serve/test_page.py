"""The page in a browser: drop a photo, draw a box, open the match, search again with a result."""

import base64
import re
from contextlib import contextmanager

import pytest
from PIL import Image
from playwright.sync_api import expect

from d2r.engine import Engine
from d2r.images import read_image, shrink
from detectors import write_detector
from serving import TOKEN, serving

expect.set_options(timeout=60_000)

WIDTHS = {
    "desktop": {"viewport": {"width": 1280, "height": 860}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@pytest.fixture(scope="module")
def scenes(shared_data, tmp_path_factory):
    """Small copies of photographs of two buildings and other objects, and a query photograph of the first building."""
    folder = tmp_path_factory.mktemp("scenes")
    taken = [(name, sorted((shared_data / "scenes" / name).iterdir())[:4]) for name in ("fountain", "herz-jesu")]
    taken.append(("other", sorted((shared_data / "photos").iterdir())[:4]))
    for name, paths in taken:
        for path in paths:
            (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(shrink(read_image(path), 480)).save(
                folder / "photos" / name / f"{path.stem}.jpg", quality=92
            )
    query = sorted((folder / "photos" / "fountain").iterdir())[1]
    return folder, query.rename(folder / "query.jpg")


@pytest.fixture(scope="module")
def url(scenes, tmp_path_factory):
    folder, _ = scenes
    with Engine.create(folder / "scenes.index", num_words=256, regions="rmac:levels=1") as engine:
        engine.sync(folder / "photos", workers=0)
    with serving(folder / "scenes.index", tmp_path_factory.mktemp("uploads")) as client:
        yield str(client.base_url)


@contextmanager
def page_of(browser, url, **options):
    """A browser window with the page, which may log no errors and send no requests to other hosts."""
    context = browser.new_context(**options)
    window = context.new_page()
    heard = []
    window.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
    window.on("pageerror", lambda error: heard.append(str(error)))
    window.on(
        "request",
        lambda request: None if request.url.startswith((url, "blob:", "data:")) else heard.append(request.url),
    )
    window.goto(url)
    expect(window.locator(".card")).to_have_count(11)
    try:
        yield window
        assert heard == []
    finally:
        context.close()


def drop(window, path):
    """Drop a file on the page."""
    carry(window, path, "drop")


def carry(window, path, how):
    """Send the page the event of a dropped or pasted file."""
    data = base64.b64encode(path.read_bytes()).decode()
    window.evaluate(
        """async ([data, name, how]) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([bytes], name, { type: "image/jpeg" }));
          const options = { dataTransfer: carried, clipboardData: carried, bubbles: true, cancelable: true };
          const event = how === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
          document.querySelector("#drop").dispatchEvent(event);
        }""",
        [data, path.name, how],
    )


def draw(window, share):
    """Draw a box with the mouse: x1, y1, x2, y2 as shares of the displayed picture."""
    place = window.locator("#drawing").bounding_box()
    x1, y1, x2, y2 = (
        place[side] + place[length] * part
        for (side, length), part in zip([("x", "width"), ("y", "height")] * 2, share, strict=True)
    )
    window.mouse.move(x1, y1)
    window.mouse.down()
    window.mouse.move((x1 + x2) / 2, (y1 + y2) / 2)
    window.mouse.move(x2, y2)
    window.mouse.up()


def first_result(window):
    return window.locator(".card .name").first


@pytest.mark.parametrize("width", WIDTHS)
def test_a_photo_is_dropped_a_box_drawn_the_match_opened_and_a_result_searched_with(
    browser, url, scenes, width, tmp_path
):
    with page_of(browser, url, **WIDTHS[width]) as window:
        drop(window, scenes[1])
        expect(window.locator("#summary")).to_contain_text("results for the whole picture")
        draw(window, (0.2, 0.2, 0.8, 0.85))
        expect(window.locator("#stage-label")).to_contain_text("Box from")
        expect(window.locator("#summary")).to_contain_text("results for the box")
        expect(first_result(window)).to_contain_text("fountain/")
        window.screenshot(path=tmp_path / f"{width}-results.png", full_page=True)
        window.get_by_role("button", name="Result 1,").click()
        expect(window.locator("#match")).to_be_visible()
        expect(window.locator("#match-facts")).to_contain_text("inliers")
        assert window.locator("#match-view .line").count() > 5
        window.screenshot(path=tmp_path / f"{width}-match.png")
        assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
        window.get_by_role("button", name="Search with this result", exact=True).click()
        expect(window.locator("#match")).to_be_hidden()
        expect(window.locator("#query-name")).to_contain_text("fountain/")
        expect(window.locator("#summary")).to_contain_text("results for the whole picture")
        expect(first_result(window)).to_contain_text("fountain/")


def test_a_box_is_made_and_moved_by_keys_and_removed(browser, url):
    with page_of(browser, url) as window:
        window.get_by_role("button", name="Search with fountain/").first.press("Enter")
        expect(window.locator("#summary")).to_contain_text("results for the whole picture")
        stage = window.locator("#stage")
        stage.press("b")
        expect(window.locator("#stage-label")).to_contain_text("Box from 120, 80 to 360, 240.")
        stage.press("ArrowRight")
        stage.press("Shift+ArrowDown")
        expect(window.locator("#stage-label")).to_contain_text("Box from 125, 80 to 365, 245.")
        stage.press("Escape")
        expect(window.locator("#stage-label")).to_contain_text("The whole picture")


def test_the_slider_says_how_many_are_checked(browser, url):
    with page_of(browser, url) as window:
        window.get_by_role("button", name="Search with fountain/").first.click()
        expect(window.locator("#summary")).to_contain_text("results for the whole picture")
        window.locator("#verify").fill("0")
        expect(window.locator("#verify-shown")).to_have_text("0")
        expect(window.locator(".facts").first).to_contain_text("not verified")


def test_a_search_is_expanded_as_long_as_that_is_ticked(browser, url):
    with page_of(browser, url) as window:
        window.get_by_role("button", name="Search with fountain/").first.click()
        expect(window.locator("#summary")).to_contain_text("results for the whole picture")
        for change, expand in (("uncheck", 0), ("check", 5)):
            with window.expect_response(lambda response: "/search?" in response.url) as found:
                getattr(window.get_by_label("Expand the query with verified results"), change)()
            assert f"expand={expand}" in found.value.url
            assert ("expand" in found.value.json()["seconds"]) == (expand > 0)
        expect(first_result(window)).to_contain_text("fountain/")


def test_an_answer_that_misses_pictures_says_so(browser, url):
    """The service is real; its answer is changed to that of a cluster that has lost a shard."""

    def lose(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "missing": 3})

    with page_of(browser, url) as window:
        window.route("**/search?*", lose)
        window.get_by_role("button", name="Search with fountain/").first.click()
        expect(window.locator("#trouble")).to_contain_text("3 pictures could not be searched")
        expect(first_result(window)).to_contain_text("fountain/")
        window.unroute("**/search?*")
        window.locator("#top").select_option("10")
        expect(window.locator("#trouble")).to_be_hidden()


def test_a_file_that_is_no_picture_is_said_to_be_none(browser, url, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with page_of(browser, url) as window:
        window.locator("#file").set_input_files(tmp_path / "broken.jpg")
        expect(window.locator("#trouble")).to_contain_text("cannot show it")


def test_a_picture_is_pasted(browser, url, scenes):
    with page_of(browser, url) as window:
        carry(window, scenes[1], "paste")
        expect(window.locator("#query-name")).to_have_text("query.jpg")
        expect(first_result(window)).to_contain_text("fountain/")


def test_there_is_no_threshold_without_a_detector(browser, url):
    with page_of(browser, url) as window:
        window.get_by_role("button", name="Search with fountain/").first.click()
        window.get_by_role("button", name="Result 1,").click()
        expect(window.locator("#match")).to_be_visible()
        expect(window.locator("#thresholds")).to_be_hidden()


@pytest.fixture(scope="module")
def detected_url(scenes, tmp_path_factory):
    """A collection whose regions come from a detector, with confidences of 0.8, 0.5 and 0.2."""
    folder, _ = scenes
    boxes = ((0.1, 0.1, 0.8, 0.8), (0.2, 0.0, 0.6, 0.5), (0.5, 0.5, 1.0, 1.0))
    model = write_detector(folder / "toy.onnx", boxes, (0.8, 0.5, 0.2))
    with Engine.create(
        folder / "detected.index", num_words=256, regions=f"detector:model={model},threshold=0.3"
    ) as engine:
        engine.sync(folder / "photos", workers=0)
    with serving(folder / "detected.index", tmp_path_factory.mktemp("uploads")) as client:
        yield str(client.base_url)


@pytest.mark.parametrize("width", WIDTHS)
def test_another_threshold_shows_other_regions_and_another_score(browser, detected_url, scenes, width):
    with page_of(browser, detected_url, **WIDTHS[width]) as window:
        window.get_by_label(
            "Expand the query with verified results"
        ).uncheck()  # so that scores are those of the query without expansion
        drop(window, scenes[1])
        expect(window.locator("#summary")).to_contain_text("results for the whole picture")
        score = window.locator(".facts").first.text_content().split()[1][:5]
        window.get_by_role("button", name="Result 1,").click()
        expect(window.locator("#match-view .tag")).to_have_count(0)
        window.locator("#thresholds summary").press("Enter")
        said = window.locator("#threshold-shown")
        expect(said).to_have_text(f"At 0.30, as in the collection: 2 regions, score {score}.")
        expect(window.locator("#match-view .tag")).to_have_text(["0.80", "0.50"])
        slider = window.get_by_role("slider", name="Threshold")
        slider.fill("0.1")
        expect(window.locator("#match-view .tag")).to_have_text(["0.80", "0.50", "0.20"])
        lower = said.text_content()
        assert lower.startswith("At 0.10: 3 regions, score ")
        slider.fill("0.49")
        slider.press("ArrowRight")
        slider.press("ArrowRight")
        expect(window.locator("#match-view .tag")).to_have_text(["0.80"])
        assert said.text_content().startswith("At 0.51: 1 region, score ")
        assert slider.get_attribute("aria-valuetext") == said.text_content()
        assert said.text_content().split()[5] != lower.split()[5]
        slider.fill("1")
        expect(window.locator("#match-view .tag")).to_have_count(0)
        assert said.text_content().startswith("At 1.00: no region, score ")
        assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert window.locator("#match").evaluate("one => one.scrollWidth <= one.clientWidth")
        window.get_by_role("button", name="Next").click()
        expect(said).to_contain_text("At 1.00: no region, score ")


def test_a_picture_is_added_with_the_token_and_removed(browser, url, scenes):
    with page_of(browser, url) as window:
        window.get_by_role("button", name="Token").click()
        window.locator("#token-field").fill(TOKEN)
        window.get_by_role("button", name="Use it").click()
        expect(window.locator("#token")).to_be_hidden()
        expect(window.locator(".card")).to_have_count(11)
        drop(window, scenes[1])
        window.get_by_role("button", name="Add to the collection").click()
        expect(window.locator("#changed")).to_contain_text("done")
        expect(window.locator("#collection")).to_contain_text("12 pictures")
        expect(first_result(window)).to_have_text("query.jpg")
        window.get_by_role("button", name="Result 1,").click()
        for shown in (window.locator(".card image").first, window.locator("#match-view image").last):
            expect(shown).to_have_attribute(
                "href", re.compile("^blob:")
            )  # otherwise it would be requested after its removal
        window.once("dialog", lambda asked: asked.accept())
        window.get_by_role("button", name="Remove from the collection").click()
        expect(window.locator("#collection")).to_contain_text("11 pictures")
