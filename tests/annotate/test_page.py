"""The page in a browser: boxes by mouse, touch and keys, undo, resuming, and hostile names."""

from contextlib import contextmanager

import numpy as np
import pytest
from playwright.sync_api import expect

from d2r.annotate.server import make_annotation_app
from d2r.annotate.session import open_session
from d2r.datasets.landmark_boxes import read_dataset, to_pixels
from served import serving
from synthetic import texture, write

WIDTH, HEIGHT = 400, 200
OFFERED = np.array([[40, 20, 200, 120], [0, 0, 100, 100]], np.float32)


@pytest.fixture
def photos(tmp_path):
    for k, name in enumerate(("a.jpg", "b.jpg", "bay/c.jpg", "petra/d.jpg")):
        write(tmp_path / "photos" / name, texture(k, WIDTH, HEIGHT))
    return tmp_path / "photos"


@contextmanager
def page_of(browser, photos, out, *, offered=None, trouble=None, **options):
    """A browser window on a session; ``trouble`` collects errors of the browser and requests to other hosts."""
    propose = None if offered is None else lambda picture: offered
    with open_session(photos, out) as session, serving(make_annotation_app(session, propose=propose)) as server:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        window = context.new_page()
        heard = [] if trouble is None else trouble
        window.on("console", lambda message: heard.append(message.text))
        window.on("pageerror", lambda error: heard.append(str(error)))
        window.on(
            "request",
            lambda request: None if request.url.startswith((server.url, "data:")) else heard.append(request.url),
        )
        window.goto(server.url)
        expect(window.locator("#place")).to_contain_text("Picture ")
        try:
            yield window
            if trouble is None:
                assert heard == []
        finally:
            context.close()


@pytest.fixture
def window(browser, photos, tmp_path):
    with page_of(browser, photos, tmp_path / "out", offered=OFFERED) as opened:
        yield opened


@pytest.fixture
def kept(tmp_path):
    """The decisions on disk: id to box in pixels, or None for no prominent landmark."""

    def read():
        dataset = read_dataset(tmp_path / "out")
        boxes = {name: dataset.box(name) for name in dataset.pictures}
        return {
            name: None if box is None else tuple(round(side) for side in to_pixels(box, WIDTH, HEIGHT))
            for name, box in boxes.items()
        }

    return read


def on_screen(window, x, y):
    """The position on the screen of a point of the picture, in pixels."""
    return window.evaluate(
        "([x, y]) => { const p = new DOMPoint(x, y).matrixTransform(document.getElementById('drawing').getScreenCTM());"
        " return [p.x, p.y]; }",
        [x, y],
    )


def drag(window, start, end):
    window.mouse.move(*on_screen(window, *start))
    window.mouse.down()
    window.mouse.move(*on_screen(window, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    window.mouse.move(*on_screen(window, *end))
    window.mouse.up()


def drawn(window):
    """The box in the fields."""
    return [window.locator(f"#{name}").input_value() for name in ("x1", "y1", "x2", "y2")]


def take_first(window):
    expect(window.get_by_role("button", name="Take proposal 1")).to_be_visible()
    window.keyboard.press("1")


def shows(window, name):
    expect(window.locator("#name")).to_have_text(name)


def test_a_box_is_drawn_by_mouse_and_saved_before_the_page_says_so(window, kept):
    shows(window, "a.jpg")
    expect(window.locator("#save")).to_be_disabled()
    drag(window, (300, 150), (100, 50))
    assert drawn(window) == ["100", "50", "300", "150"]
    expect(window.locator("#state")).to_have_text("not saved yet")
    assert kept() == {}
    window.get_by_role("button", name="Save box").click()
    shows(window, "b.jpg")
    assert kept() == {"a.jpg": (100, 50, 300, 150)}
    expect(window.locator("#said")).to_have_text("Saved. Picture 2 of 4, b.jpg.")
    expect(window.locator("#counts")).to_have_text("1 of 4 decided · 1 with a box · 0 without")


def test_a_box_is_moved_and_its_sides_and_corners_dragged(window):
    drag(window, (100, 50), (300, 150))
    drag(window, (200, 100), (250, 90))
    assert drawn(window) == ["150", "40", "350", "140"]
    drag(window, (350, 140), (380, 180))
    assert drawn(window) == ["150", "40", "380", "180"]
    drag(window, (150, 100), (60, 100))
    assert drawn(window) == ["60", "40", "380", "180"]
    drag(window, (200, 100), (1000, 500))  # clipped to the picture
    assert drawn(window) == ["80", "60", "400", "200"]
    drag(window, (20, 20), (40, 50))  # beside the box: a new one
    assert drawn(window) == ["20", "20", "40", "50"]
    window.mouse.click(*on_screen(window, 300, 100))  # a click draws no box
    assert drawn(window) == ["20", "20", "40", "50"]


def test_a_box_is_drawn_sized_and_saved_by_keys_alone(window, kept):
    expect(window.locator("#stage")).to_be_focused()
    window.keyboard.press("b")
    assert drawn(window) == ["100", "50", "300", "150"]
    window.keyboard.press("ArrowLeft")
    window.keyboard.press("ArrowDown")
    window.keyboard.press("Shift+ArrowRight")
    window.keyboard.press("Shift+ArrowUp")
    assert drawn(window) == ["96", "54", "300", "150"]
    expect(window.locator("#said")).to_have_text("Box from 96, 54 to 300, 150.")
    window.keyboard.press("Enter")
    shows(window, "b.jpg")
    assert kept() == {"a.jpg": (96, 54, 300, 150)}
    expect(window.locator("#stage")).to_be_focused()
    window.keyboard.press("n")
    shows(window, "bay/c.jpg")
    assert kept() == {"a.jpg": (96, 54, 300, 150), "b.jpg": None}


def test_every_button_is_reached_and_pressed_by_keys(window, kept):
    for _ in range(3):
        window.keyboard.press("Tab")
        if window.locator("#none").evaluate("button => button === document.activeElement"):
            break
    window.keyboard.press("Space")
    shows(window, "b.jpg")
    assert kept() == {"a.jpg": None}


def test_letters_decide_nothing_outside_the_picture(window, kept):
    window.locator("#x1").focus()
    window.keyboard.type("n1b")
    window.get_by_role("button", name="Next", exact=True).focus()
    window.keyboard.press("n")
    window.keyboard.press("z")
    shows(window, "a.jpg")
    assert kept() == {}


def test_a_key_held_down_decides_one_picture_only(window, kept):
    window.keyboard.down("n")
    shows(window, "b.jpg")
    window.keyboard.down("n")
    window.keyboard.down("n")
    window.keyboard.up("n")
    window.wait_for_timeout(200)
    assert kept() == {"a.jpg": None}


def test_a_box_is_given_in_numbers(window, kept):
    for name, value in (("x1", "10"), ("y1", "20"), ("x2", "310"), ("y2", "999")):
        window.locator(f"#{name}").fill(value)
        window.locator(f"#{name}").press("Tab")
    assert drawn(window) == ["10", "20", "310", "200"]
    window.locator("#x1").fill("350")  # beyond the other side, which does not move
    window.locator("#x1").press("Tab")
    assert drawn(window) == ["309", "20", "310", "200"]
    window.get_by_role("button", name="Save box").click()
    shows(window, "b.jpg")
    assert kept() == {"a.jpg": (309, 20, 310, 200)}


def test_undo_takes_back_what_was_drawn_then_what_was_decided(window, kept):
    drag(window, (100, 50), (300, 150))
    drag(window, (200, 100), (250, 100))
    window.keyboard.press("z")
    assert drawn(window) == ["100", "50", "300", "150"]
    window.keyboard.press("Control+z")
    assert drawn(window) == [""] * 4
    expect(window.get_by_role("button", name="Undo")).to_be_disabled()
    window.keyboard.press("n")
    shows(window, "b.jpg")
    take_first(window)
    window.keyboard.press("Enter")
    shows(window, "bay/c.jpg")
    assert kept() == {"a.jpg": None, "b.jpg": (40, 20, 200, 120)}
    window.get_by_role("button", name="Undo").click()
    shows(window, "b.jpg")
    assert kept() == {"a.jpg": None}
    assert drawn(window) == [""] * 4
    window.keyboard.press("z")
    shows(window, "a.jpg")
    assert kept() == {}
    expect(window.locator("#state")).to_have_text("undecided")
    expect(window.locator("#stage")).to_be_focused()


def test_a_proposal_is_accepted_by_key_or_button_and_can_be_changed(window, kept):
    expect(window.get_by_role("button", name="Take proposal 2")).to_be_visible()
    window.keyboard.press("1")
    assert drawn(window) == ["40", "20", "200", "120"]
    window.keyboard.press("3")  # there is none
    window.get_by_role("button", name="Take proposal 2").click()
    assert drawn(window) == ["0", "0", "100", "100"]
    window.keyboard.press("ArrowRight")
    window.keyboard.press("Enter")
    shows(window, "b.jpg")
    assert kept() == {"a.jpg": (4, 0, 104, 100)}


def test_a_reload_goes_on_where_it_was(window, kept):
    window.keyboard.press("n")
    shows(window, "b.jpg")
    take_first(window)
    window.keyboard.press("Enter")
    shows(window, "bay/c.jpg")
    window.reload()
    shows(window, "bay/c.jpg")
    expect(window.locator("#counts")).to_have_text("2 of 4 decided · 1 with a box · 1 without")
    window.keyboard.press("PageUp")
    shows(window, "b.jpg")
    expect(window.locator("#state")).to_have_text("box saved")
    assert drawn(window) == ["40", "20", "200", "120"]
    window.keyboard.press("n")  # a decision can be changed
    shows(window, "bay/c.jpg")
    assert kept() == {"a.jpg": None, "b.jpg": None}


def test_a_later_session_goes_on_and_the_end_is_told(browser, photos, tmp_path, kept):
    with page_of(browser, photos, tmp_path / "out") as window:
        for name in ("b.jpg", "bay/c.jpg"):
            window.keyboard.press("n")
            shows(window, name)
    with page_of(browser, photos, tmp_path / "out") as window:
        shows(window, "bay/c.jpg")
        expect(window.locator("#place")).to_have_text("Picture 3 of 4 · bay")
        window.keyboard.press("n")
        shows(window, "petra/d.jpg")
        window.keyboard.press("n")
        expect(window.locator("#done")).to_contain_text("Every picture is decided.")
        expect(window.locator("#said")).to_contain_text("Every picture is decided.")
        assert len(kept()) == 4
        window.keyboard.press("z")
        expect(window.locator("#done")).to_be_hidden()


def test_what_was_drawn_waits_while_another_picture_is_looked_at(window, kept):
    window.keyboard.press("b")
    window.keyboard.press("PageDown")
    shows(window, "b.jpg")
    assert drawn(window) == [""] * 4
    window.keyboard.press("PageUp")
    shows(window, "a.jpg")
    assert drawn(window) == ["100", "50", "300", "150"]
    assert kept() == {}


def test_what_could_not_be_saved_is_told_and_not_lost(browser, photos, tmp_path, monkeypatch, kept):
    def full(*_):
        raise OSError(28, "No space left on device")

    trouble = []
    with page_of(browser, photos, tmp_path / "out", trouble=trouble) as window:
        window.keyboard.press("b")
        with monkeypatch.context() as broken:
            broken.setattr("d2r.annotate.session.write_boxes", full)
            window.keyboard.press("Enter")
            expect(window.get_by_role("alert")).to_contain_text("No space left on device")
        shows(window, "a.jpg")
        assert drawn(window) == ["100", "50", "300", "150"]
        assert kept() == {}
        window.keyboard.press("Enter")
        shows(window, "b.jpg")
        expect(window.locator("#trouble")).to_be_hidden()
        assert kept() == {"a.jpg": (100, 50, 300, 150)}
        window.route("**/api/**", lambda route: route.abort())
        window.keyboard.press("n")
        expect(window.get_by_role("alert")).to_contain_text("Is d2r dataset annotate still running?")
        shows(window, "b.jpg")
    assert all("Failed to load resource" in message for message in trouble)


def test_a_file_that_is_no_picture_is_passed_over(browser, photos, tmp_path, kept):
    (photos / "b.jpg").write_text("no picture")
    with page_of(browser, photos, tmp_path / "out", trouble=[]) as window:
        window.keyboard.press("PageDown")
        shows(window, "b.jpg")
        expect(window.locator("#problem")).to_contain_text(
            "This picture is skipped because it cannot be used: not a picture"
        )
        stage, reason = window.locator("#stage").bounding_box(), window.locator("#problem").bounding_box()
        assert stage["height"] >= reason["height"] > 0
        assert window.locator("#problem").evaluate("p => p.scrollHeight <= p.clientHeight")
        expect(window.locator("#save")).to_be_disabled()
        expect(window.locator("#none")).to_be_disabled()
        window.keyboard.press("n")
        window.keyboard.press("PageUp")
        shows(window, "a.jpg")
        window.keyboard.press("n")
        shows(window, "bay/c.jpg")
        assert kept() == {"a.jpg": None}


def test_names_that_are_an_attack_are_text(browser, tmp_path):
    nasty = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>‮gpj.‬\n${alert(3)}.jpg".replace("/", "∕")
    write(tmp_path / "photos" / nasty / nasty, texture(0, WIDTH, HEIGHT))
    with page_of(browser, tmp_path / "photos", tmp_path / "out") as window:
        expect(window.locator("#name")).to_contain_text("<img src=x onerror=alert(1)>")
        expect(window.locator("#name")).to_contain_text(r"\u202e")
        assert window.locator("img").count() == 0
        assert window.locator("script").count() == 1
        window.keyboard.press("b")
        window.keyboard.press("Enter")
        expect(window.locator("#done")).to_be_visible()
    assert list(read_dataset(tmp_path / "out").training) == [f"{nasty}/{nasty}"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_a_finger_draws_the_decisions_stay_in_sight_and_nothing_scrolls_sideways(
    browser, photos, tmp_path, kept, scheme
):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": scheme}
    write(photos / f"{'a-very-long-name-without-a-space-' * 6}.jpg", texture(9, WIDTH, HEIGHT))
    with page_of(browser, photos, tmp_path / "out", offered=OFFERED, **phone) as window:
        assert not window.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        window.get_by_role("button", name="Next", exact=True).tap()
        shows(window, "a.jpg")
        for button in ("#save", "#none", "#undo"):
            expect(window.locator(button)).to_be_in_viewport(ratio=1)
        touch = window.context.new_cdp_session(window)

        def finger(kind, *place):
            points = [dict(zip("xy", on_screen(window, *place), strict=True))] if place else []
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        finger("touchStart", 100, 50)
        for step in (
            1,
            2,
            3,
            4,
            5,
            5,
            5,
        ):  # without a pause at the end it is a fling, and the next tap would only stop it
            finger("touchMove", 100 + 40 * step, 50 + 20 * step)
            window.wait_for_timeout(50)
        finger("touchEnd")
        window.wait_for_timeout(300)
        assert [abs(int(value) - wanted) <= 1 for value, wanted in zip(drawn(window), (100, 50, 300, 150), strict=True)]
        window.locator("#save").tap()
        shows(window, "b.jpg")
        assert list(kept()) == ["a.jpg"]
        expect(window.locator("#drawing")).to_be_in_viewport(ratio=0.9)


def test_contrast_and_names_hold_for_who_cannot_see_well(window):
    """Every control has a name, and text has a contrast of at least 4.5 to 1, in both colour schemes."""
    for control in window.locator("button, input, [role=application], progress").all():
        assert control.evaluate(
            "e => e.ariaLabel || e.innerText || e.labels?.length || e.getAttribute('aria-labelledby')"
        )
    script = """() => {
      const light = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (e) => {
        for (; e; e = e.parentElement) {
          const colour = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)$/.test(colour)) return colour;
        }
      };
      document.querySelector("details").open = true;
      const poor = [];
      const texts = "p, h1, h2, button, label, legend, kbd, dt, dd, summary, input, .state";
      for (const e of document.querySelectorAll(texts)) {
        if (e.disabled || e.closest(":disabled") || !e.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(e.outerHTML);
      }
      return poor;
    }"""
    for scheme in ("light", "dark"):
        window.emulate_media(color_scheme=scheme)
        assert window.evaluate(script) == []
