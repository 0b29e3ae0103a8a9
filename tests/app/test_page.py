"""The page in a browser: what a visitor does from the first click on, against the pipeline called by hand.

Debian's chromium, driven by Playwright. No test may leave an error in the console, and no request may leave
the machine.
"""

import base64
import io
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

gradio = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ddt-lightning[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)

from ddt_lightning.app import training  # noqa: E402
from ddt_lightning.app.address import open_socket  # noqa: E402
from ddt_lightning.app.limits import UPLOAD_BYTES  # noqa: E402
from ddt_lightning.app.serve import serve  # noqa: E402
from ddt_lightning.app.studio import PREVIEW, Studio, open_studio  # noqa: E402
from ddt_lightning.images import stack, unstack  # noqa: E402
from ddt_lightning.inputs import Loading  # noqa: E402
from ddt_lightning.sampling import Sampling  # noqa: E402
from ddt_lightning.scenes.layout import read_plan  # noqa: E402
from ddt_lightning.scenes.render import render  # noqa: E402
from tests.app.test_limits import blank_png  # noqa: E402
from tests.tiny import taught_tokenizer, tiny_model  # noqa: E402

PROMPTS = ["a red circle", "two crosses"]
PLAN = "red circle 5 4 6, teal day |"
PATIENCE = 60_000  # milliseconds: a machine with much else to do


class Open:
    """The page of a tiny model, served from this process.

    Args:
        folder: where the model and the runs lie.
    """

    def __init__(self, folder: Path) -> None:
        model = tiny_model(folder / "model", tokenizer=taught_tokenizer(16), plans=True, max_length=512)
        taught_tokenizer(16, seed=1).save_pretrained(folder / "other")
        self.runs = folder / "runs"
        self.studio: Studio = open_studio(Loading(str(model), device="cpu"), [str(folder / "other")], PROMPTS)
        self.socket = open_socket("127.0.0.1", 0)
        self.server = serve(self.studio, self.runs, self.socket, None)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Open]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setattr(training, "SECONDS", 0.5)
        one = Open(tmp_path_factory.mktemp("app"))
        yield one
        one.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture
def page(served, browser) -> Iterator["playwright.Page"]:
    """A page that has loaded; at the end its console must be free of errors, and its requests of other hosts."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE)
    opened, trouble, asked = context.new_page(), [], []
    opened.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(served.address)
    opened.wait_for_selector("#draw-prompt textarea")
    opened.forgiven = []
    yield opened
    context.close()
    assert [text for text in trouble if not any(part in text for part in opened.forgiven)] == []
    assert [url for url in asked if not url.startswith((served.address, "data:", "blob:"))] == []


def images(page: "playwright.Page", place: str) -> list[np.ndarray]:
    """Pictures inside an element, uint8 `[H, W, 3]`."""
    uris = page.eval_on_selector_all(f"{place} img", "found => found.map(image => image.src)")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")) for uri in uris]


def wait_for(page: "playwright.Page", place: str, text: str) -> None:
    page.wait_for_function(
        "([place, text]) => document.querySelector(place)?.innerText.includes(text)", arg=[place, text]
    )


def draw(page: "playwright.Page", prompt: str) -> None:
    page.fill("#draw-prompt textarea", prompt)
    page.click("#draw-go")
    wait_for(page, "#draw-facts", "seed")


def set_slider(page: "playwright.Page", place: str, value: int) -> None:
    page.fill(f"{place} input[type=number]", str(value))
    page.press(f"{place} input[type=number]", "Enter")


def test_draw_an_example_change_its_plan_and_draw_again(page, served):
    pipeline = served.studio.pipeline
    page.locator("#draw-examples").get_by_text("two crosses", exact=True).click()
    wait_for(page, "#draw-facts", "6 tokens, seed 0")
    asked = pipeline.draw_prompts(["two crosses"])
    by_hand = pipeline.text_to_image(["two crosses"], seed=0)
    assert np.array_equal(images(page, "#draw-view")[0], unstack(by_hand)[0])
    assert page.input_value("#draw-plan textarea").strip()

    page.fill("#draw-plan textarea", "a layout of nothing")
    wait_for(page, "#draw-sketch", "no whole layout")
    page.fill("#draw-plan textarea", PLAN)
    page.wait_for_selector("#draw-sketch img")
    assert np.array_equal(images(page, "#draw-sketch")[0], render(read_plan(PLAN), 128))
    # what stands there while ids arrive is soon replaced, so every change is written down
    page.evaluate(
        """() => {
            window.facts = [];
            const note = () => window.facts.push(document.querySelector('#draw-facts').innerText);
            new MutationObserver(note).observe(document.body, {childList: true, characterData: true, subtree: true});
        }"""
    )
    page.click("#draw-redraw")
    page.wait_for_function("window.facts.some((text) => text.includes('of 6 tokens'))")
    wait_for(page, "#draw-facts", "seed 0")
    planned = pipeline.draw(asked, Sampling(plan=PLAN), seed=0)
    assert np.array_equal(images(page, "#draw-view")[0], unstack(planned.images)[0])
    assert page.input_value("#draw-plan textarea") == PLAN

    set_slider(page, "#draw-tokens", 3)
    wait_for(page, "#draw-view", "first 3 tokens")
    three = served.studio.plain.decode(planned.ids[:, :3], PREVIEW, seed=0)
    assert np.array_equal(images(page, "#draw-view")[0], unstack(three)[0])


def test_edits_follow_each_other_and_are_undone(page, served):
    pipeline = served.studio.pipeline
    page.get_by_role("tab", name="Edit").click()
    page.click("#edit-go")
    wait_for(page, "body", "The instruction is empty")
    page.get_by_role("tab", name="Draw").click()
    draw(page, "a red circle")
    source = images(page, "#draw-view")[0]
    page.get_by_role("tab", name="Edit").click()
    page.click("#edit-source-take")
    wait_for(page, "#edit-view", "Write an instruction")
    for number, text in enumerate(["make the ring green", "two crosses"], 1):
        page.fill("#edit-text textarea, #edit-text input", text)
        page.click("#edit-go")
        wait_for(page, "#edit-history", text)
        assert len(images(page, "#edit-history")) == 1 + number
    first = images(page, "#edit-history")[1]
    by_hand = pipeline.edit_image(stack([source]), ["make the ring green"], seed=1)
    assert np.array_equal(first, unstack(by_hand)[0])
    page.click("#edit-undo")
    page.wait_for_function("document.querySelectorAll('#edit-history img').length == 2")
    assert np.array_equal(images(page, "#edit-view")[1], first)


def test_questions_are_answered(page, served):
    draw(page, "a red circle")
    image = images(page, "#draw-view")[0]
    page.get_by_role("tab", name="Ask").click()
    page.click("#ask-source-take")
    page.wait_for_selector("#ask-source-view img")
    page.click("#ask-describe")
    page.wait_for_function("document.querySelectorAll('#ask-view li').length == 1")
    page.fill("#ask-text textarea, #ask-text input", "how many shapes are there ?")
    page.click("#ask-go")
    page.wait_for_function("document.querySelectorAll('#ask-view li').length == 2")
    said = page.eval_on_selector_all("#ask-view b", "found => found.map(one => one.textContent)")
    questions = ["how many shapes are there ?", None]
    by_hand = [served.studio.pipeline.describe_image(stack([image]), one)[0] for one in questions]
    assert said == [text or "(no words)" for text in by_hand]


def test_first_tokens_change_places(page):
    draw(page, "a red circle")
    page.get_by_role("tab", name="Tokens").click()
    page.click("#tokens-a-take")
    page.wait_for_selector("#tokens-strip img")
    page.wait_for_selector("#tokens-beside img")
    assert len(images(page, "#tokens-strip")) == 5 and len(images(page, "#tokens-beside")) == 10  # 1, 2, 4, 6 tokens
    page.click("#tokens-b-example")
    page.wait_for_selector("#tokens-mixed img")
    set_slider(page, "#tokens-count", 0)
    wait_for(page, "#tokens-mixed", "first 0 of B")
    none = images(page, "#tokens-mixed")
    set_slider(page, "#tokens-count", 6)
    wait_for(page, "#tokens-mixed", "first 6 of B")
    every = images(page, "#tokens-mixed")
    assert np.array_equal(none[1], every[2]) and np.array_equal(none[2], every[1])
    assert np.array_equal(none[0], every[0]) and np.array_equal(none[3], every[3])


def test_bad_uploads_are_refused_in_words_and_good_ones_edited(page, tmp_path):
    page.forgiven += ["404", "Response"]  # Gradio's own lines about an upload that is stopped for its size
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "notes.png").write_text("this is a text")
    blank_png(tmp_path / "huge.png", 8000, 8000)
    (tmp_path / "heavy.png").write_bytes(bytes(UPLOAD_BYTES + 1))
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "good.png")
    page.get_by_role("tab", name="Edit").click()
    chooser = page.locator("#edit-source-upload input[type=file]")
    for name, words in (
        ("notes.png", "notes.png is not a readable image"),
        ("dot.png", "give 8 or more"),
        ("huge.png", "Scale it down"),
        ("heavy.png", "exceed the maximum allowed size"),
    ):
        chooser.set_input_files(tmp_path / name)
        wait_for(page, "body", words)
    chooser.set_input_files(tmp_path / "good.png")
    wait_for(page, "#edit-view", "Write an instruction")
    assert np.all(images(page, "#edit-source-view")[0] == (200, 30, 30))
    page.fill("#edit-text textarea, #edit-text input", "make the ring green")
    page.click("#edit-go")
    wait_for(page, "#edit-history", "make the ring green")


def test_a_training_is_watched_live(page, served):
    page.get_by_role("tab", name="Train").click()
    wait_for(page, "#train-view", "No run in")
    run = served.runs / "mine"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step,train/loss\n0,3\n10,2\n")
    wait_for(page, "#train-view", "1 quantities")
    with (run / "metrics.csv").open("w") as table:
        table.write("step,train/loss,train/flow\n0,3,1\n10,2,1\n20,1,1\n")
    wait_for(page, "#train-view", "2 quantities")


def test_nothing_runs_out_of_a_phone(served, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(served.address)
    page.wait_for_selector("#draw-prompt textarea")
    for name in ("Draw", "Edit", "Ask", "Tokens"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    context.close()


def test_twenty_visitors_at_once_all_get_their_picture(served):
    client = pytest.importorskip("gradio_client")

    def visit(seed: int) -> str:
        visitor = client.Client(served.address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60})
        return visitor.predict("a red circle", seed, 2.0, 0.5, api_name="/draw")[0]

    with ThreadPoolExecutor(20) as pool:
        shown = list(pool.map(visit, range(20)))
    drawn = served.studio.pipeline.text_to_image(["a red circle"] * 20, guidance=2.0, temperature=0.5, seed=0)
    for html, image in zip(shown, unstack(drawn), strict=True):
        uri = html.partition('src="')[2].partition('"')[0]
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        assert np.abs(found.astype(int) - image).max() <= 1  # rounding of a batch of twenty
