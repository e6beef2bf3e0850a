"""The page in Chromium: each feature is used, at two widths, in light and dark colours, without a network.

``multihead show`` serves four tiny runs, as a user would start it. The tests need Chromium and
``pip install -e ".[browser]"``; the ones about accessibility also need axe-core, which npm fetches, or the path of its
``axe.min.js`` in the environment variable PYTEST_AXE. Without these, they are skipped. With PYTEST_PICTURES=FOLDER
the pictures are kept.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from multihead.serving.static_page import write_static

pytestmark = [pytest.mark.slow, pytest.mark.unhurried]
playwright = pytest.importorskip("playwright.sync_api", reason='playwright is missing: pip install -e ".[browser]"')
expect = playwright.expect
expect.set_options(timeout=30_000)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("Chromium is missing", allow_module_level=True)
AXE = "axe-core@4.14.1"
ROOT = Path(__file__).parent.parent.parent
RUNS = {
    "baseline": ("task=translation", "model.num_encoder_layers=2", "model.num_decoder_layers=2"),
    "variant": ("task=translation", "model.position=none"),
    "stories": ("task=lm",),
    "opinions": ("task=classification",),
}
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    " \x1b[31mred\x1b[0m \u202eevil\u202c </textarea><b>bold</b>"
)
WIDTHS = (1280, 390)


def started(words, **environment):
    """The process of ``multihead show``, and the address of the page."""
    variables = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    command = [sys.executable, "-m", "multihead", "show", *words]
    process = subprocess.Popen(command, env=variables | environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if found := re.search(r"http://[\w.:]+/", line):
            return process, found[0]
    raise AssertionError("multihead show has ended")


@pytest.fixture(scope="session")
def run_directories(runs):
    return [str(runs.finished(*words)) for words in RUNS.values()]


@pytest.fixture(scope="module")
def address(run_directories):
    process, url = started([f"run=[{','.join(run_directories)}]", f"names=[{','.join(RUNS)}]"])
    yield url
    process.terminate()
    assert process.wait(20) == 0


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page. At the end it holds that no other address was asked, and that no script failed or was refused."""
    contexts, foreign, faults = [], [], []

    def open_page(url=address, run=None, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(url) else None)
        page.route(lambda asked: not asked.startswith(url), lambda route: route.abort())
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
        page.goto(url)
        if run is not None:
            page.locator("#run").select_option(run)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert (foreign, faults) == ([], [])


BUSY = "Too many inputs wait for the model; try again later."
SLOW = """(pause) => {
  const real = window.fetch;
  window.fetch = async (address, options) => {
    const answer = await real(address, options);
    if (!options.body?.includes('"stream":true')) return answer;
    const events = (await answer.text()).split("\\n\\n").filter(Boolean);
    const pull = async (stream) => {
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (events.length) stream.enqueue(new TextEncoder().encode(events.shift() + "\\n\\n"));
      else stream.close();
    };
    return new Response(new ReadableStream({ pull }));
  };
}"""
"""Lets the events of a stream reach the page one by one, with a pause in milliseconds before each."""


def ask(address, verb, **body):
    request = urllib.request.Request(
        f"{address}v1/{verb}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_a_sentence_is_translated_while_it_is_typed(visit, address):
    page = visit(run="baseline")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "translate" in request.url else None)
    page.locator("#text").fill("")
    page.locator("#text").press_sequentially("The dog sleeps.", delay=20)
    right = ask(address, "translate", inputs="The dog sleeps.", run="baseline", num_beams=4)["outputs"][0]["text"]
    expect(page.locator(".output")).to_have_text(right)
    assert len(asked) < len("The dog sleeps.")  # not each letter is a request


def test_an_answer_to_an_older_text_is_dropped(visit, address):
    page, held = visit(run="baseline"), []

    def hold(route):
        if "A dog" in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/translate", hold)
    page.locator("#text").fill("A dog")
    page.wait_for_timeout(600)
    page.locator("#text").fill("The woman sleeps.")
    right = ask(address, "translate", inputs="The woman sleeps.", run="baseline", num_beams=4)["outputs"][0]["text"]
    expect(page.locator(".output")).to_have_text(right)
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_timeout(600)
    expect(page.locator(".output")).to_have_text(right)


def test_the_best_candidates_have_scores(visit, address):
    page = visit(run="baseline")
    page.get_by_label("Beams").select_option("8")
    expect(page.locator(".candidates-list li")).to_have_count(8)
    scores = [float(text) for text in page.locator(".candidates-list .share").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    sentence = page.locator("#text").input_value()
    best = ask(address, "translate", inputs=sentence, run="baseline", num_beams=8)["outputs"][0]["candidates"][0]
    assert scores[0] == pytest.approx(best["score"], abs=6e-4)


def test_a_candidate_of_a_token_is_forced_and_released(visit):
    page = visit(run="baseline")
    tokens = page.locator(".strip .token")
    expect(tokens.first).to_be_visible()
    before = page.locator(".output").inner_text()
    tokens.first.click()
    expect(tokens.first).to_have_attribute("aria-pressed", "true")
    other = page.locator(".tokens .candidate:not(.chosen)").first
    word = other.locator(".piece").inner_text()
    other.click()
    expect(page.locator(".strip .token.forced")).to_have_count(1)
    expect(page.locator(".strip .token.forced .piece")).to_have_text(word)
    expect(page.locator(".output")).not_to_have_text(before)
    page.get_by_role("button", name="Let the model choose again").click()
    expect(page.locator(".output")).to_have_text(before)
    expect(page.locator(".strip .token.forced")).to_have_count(0)


def test_attention_of_any_layer_and_head_as_lines_and_as_a_map(visit, address):
    page = visit(run="baseline")
    page.locator("#text").fill("The dog sleeps.")
    page.get_by_role("button", name="encoder", exact=True).click()
    head = page.get_by_role("button", name="Layer 2, head 2")
    head.click()
    expect(head).to_have_attribute("aria-pressed", "true")
    weights = ask(address, "attention", input="The dog sleeps.", run="baseline")
    first = weights["encoder"][1][1][0]
    tokens = [token.removeprefix("▁") for token in weights["source_tokens"]]
    page.locator(".ends.left button").first.hover()
    best = max(range(len(first)), key=first.__getitem__)
    said = f"{tokens[0]} looks at {tokens[best]} {round(first[best] * 100)} %"
    expect(page.locator(".readout")).to_contain_text(said)
    expect(page.locator(".lines path")).to_have_count(sum(weight >= 0.04 for weight in first))
    page.locator(".map").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_contain_text(f"{tokens[1]} looks at {tokens[1]}: ")
    page.locator("summary").click()
    expect(page.locator("tbody tr")).to_have_count(len(tokens))


def test_a_language_model_writes_token_by_token(visit):
    page = visit(run="stories")
    expect(page.locator(".map")).to_be_visible()
    with page.expect_request("**/v1/attention"):  # which follows the candidates of the next token
        page.get_by_role("button", name="One token").click()
    expect(page.locator(".written .token")).to_have_count(1)
    choice = page.locator(".candidate").nth(1)
    word = choice.locator(".piece").inner_text()
    choice.click()
    expect(page.locator(".written .token")).to_have_count(2)
    expect(page.locator(".written .token.forced .piece")).to_have_text(word)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_role("button", name="Write", exact=True)).to_be_visible(timeout=60_000)
    written = page.locator(".written .token")
    assert written.count() > 2
    written.first.click()
    expect(page.locator(".candidate.chosen .piece")).to_have_text(written.first.locator(".piece").inner_text())
    page.get_by_role("button", name="Start again").click()
    expect(written).to_have_count(0)


def test_a_new_text_begins_at_its_first_token(visit):
    page = visit(run="stories")
    for count in (1, 2):
        page.get_by_role("button", name="One token").click()
        expect(page.locator(".written .token")).to_have_count(count)
    page.locator(".written .token").nth(1).click()
    expect(page.locator(".candidate.chosen")).to_have_count(1)
    with page.expect_request("**/v1/generate") as asked:
        page.locator("#text").fill("The woman")
    assert asked.value.post_data_json["max_new_tokens"] == 1


def test_why_writing_failed_stays_on_the_page(visit):
    page = visit(run="stories")
    expect(page.locator(".map")).to_be_visible()
    error = page.locator(".error").first

    def refuse(route):
        if route.request.post_data_json.get("stream"):
            route.fulfill(status=503, json={"detail": BUSY})
        else:
            route.continue_()

    page.route("**/v1/generate", refuse)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(error).to_have_text(BUSY)
    page.wait_for_timeout(1000)
    expect(error).to_have_text(BUSY)
    page.get_by_role("button", name="Start again").click()
    expect(error).to_have_text("")


def test_while_the_model_writes_a_candidate_goes_to_the_place_that_it_was_shown_for(visit):
    page = visit(run="stories")
    expect(page.locator(".candidate").first).to_be_visible()
    page.evaluate(SLOW, 400)
    written, candidates = page.locator(".written .token"), page.locator(".candidate")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(candidates).to_have_count(0)  # those of a place that has its token now
    expect(written.nth(1)).to_be_visible()
    page.get_by_label("Temperature").fill("0.5")
    expect(written.nth(3)).to_be_visible()
    expect(candidates).to_have_count(0)
    written.nth(1).click()
    expect(page.locator(".candidate.chosen")).to_have_count(1)
    choice = page.locator(".candidate:not(.chosen)").first
    word = choice.locator(".piece").inner_text()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    choice.click()
    expect(written).to_have_count(2)
    expect(page.locator(".written .token.forced .piece")).to_have_text(word)


def test_after_a_stop_the_candidates_are_those_of_the_next_token(visit):
    page = visit(run="stories")
    expect(page.locator(".candidate").first).to_be_visible()
    page.evaluate(SLOW, 400)
    written = page.locator(".written .token")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(written.nth(2)).to_be_visible()
    with page.expect_request("**/v1/generate") as asked:
        page.get_by_role("button", name="Stop").click()
    count = written.count()
    assert asked.value.post_data_json["max_new_tokens"] == count + 1
    expect(page.locator(".candidate").first).to_be_visible()
    page.locator(".candidate").first.click()
    expect(written).to_have_count(count + 1)


def test_nobody_asks_for_more_tokens_than_the_server_writes(visit):
    page, asked = visit(run="stories"), []
    next_tokens = [{"id": 7, "text": "a", "probability": 0.5}]
    token = {**next_tokens[0], "next": next_tokens}

    def answer(route):
        body = route.request.post_data_json
        asked.append(body["max_new_tokens"])
        if body.get("stream"):  # the first time 500 tokens, so that few are missing
            count = 500 if len(body.get("prefix", [])) == 0 else body["max_new_tokens"]
            events = [{"index": 0, "token": token, "text": "a"}] * count
            route.fulfill(body="".join(f"data: {json.dumps(event)}\n\n" for event in events))
        else:
            output = {"text": "", "candidates": [], "tokens": [token] * body["max_new_tokens"], "truncated": False}
            route.fulfill(json={"run": "stories", "outputs": [output]})

    page.route("**/v1/generate", answer)
    page.route("**/v1/attention", lambda route: route.fulfill(json={}))
    write, one = page.get_by_role("button", name="Write", exact=True), page.get_by_role("button", name="One token")
    page.locator("#text").fill("The woman")
    for count in (500, 512):
        write.click()
        expect(page.locator(".written .token")).to_have_count(count)
        expect(write).to_be_visible()
    expect(page.get_by_text("A continuation has at most 512 tokens.")).to_be_visible()
    expect(write).to_be_disabled()
    expect(one).to_be_disabled()
    expect(page.locator(".error").first).to_have_text("")
    assert max(asked) == 512


def test_a_run_with_options_of_its_own_shows_the_distribution_of_the_model(visit, address, run_directories):
    options = ["decoding.top_k=2", "decoding.min_new_tokens=5"]
    process, url = started([f"run={run_directories[2]}", "names=stories", *options])
    try:
        page = visit(url)
        body = {"inputs": page.locator("#text").input_value(), "run": "stories", "max_new_tokens": 1, "details": True}
        (right,) = ask(address, "generate", **body, temperature=1.0)["outputs"][0]["tokens"]
        shares = page.locator(".candidate .share")
        expect(shares).to_have_count(len(right["next"]))
        expect(page.get_by_text("→ after temperature, top-p and the run's other options")).to_be_visible()
        for share, candidate in zip(shares.all_inner_texts(), right["next"], strict=True):
            assert re.sub("[<>% ]", "", share.split("→")[0]) == str(max(1, round(candidate["probability"] * 100)))
        assert len([share for share in shares.all_inner_texts() if "never" in share]) >= len(right["next"]) - 2
        expect(page.locator(".error").first).to_have_text("")
    finally:
        process.terminate()
        process.wait(20)


def test_an_empty_output_has_no_attention(visit):
    page = visit(run="baseline")
    expect(page.locator(".map")).to_be_visible()
    end = {"id": 2, "text": "<eos>", "probability": 0.5, "next": []}
    output = {"text": "", "candidates": [{"text": "", "score": -1.0}], "tokens": [end], "truncated": False}
    page.route("**/v1/translate", lambda route: route.fulfill(json={"run": "baseline", "outputs": [output]}))
    page.locator(".strip .token").first.click()
    page.locator(".tokens .candidate:not(.chosen)").first.click()
    expect(page.locator(".strip .token")).to_have_count(1)
    page.wait_for_timeout(600)
    expect(page.locator(".map")).to_be_hidden()


@pytest.mark.parametrize(
    ("run", "verb"), [("baseline", "translate"), ("stories", "generate"), ("opinions", "classify")]
)
def test_nothing_of_an_older_text_stays_after_an_error(visit, run, verb):
    page = visit(run=run)
    shown = page.locator(".candidate, .candidates-list li, .strip .token, .classes li, .words .word")
    expect(page.locator(".map")).to_be_visible()
    expect(shown.first).to_be_visible()
    page.route(f"**/v1/{verb}", lambda route: route.fulfill(status=503, json={"detail": BUSY}))
    page.locator("#text").fill("The dog sleeps.")
    expect(page.locator(".error").first).to_have_text(BUSY)
    expect(shown).to_have_count(0)
    expect(page.locator(".map")).to_be_hidden()
    if run == "baseline":
        expect(page.locator(".output")).to_have_text("")
    page.unroute(f"**/v1/{verb}")
    page.locator("#text").fill("The woman sleeps.")
    expect(page.locator(".map")).to_be_visible()
    expect(page.locator(".error").first).to_have_text("")


@pytest.mark.parametrize(("run", "end"), [("baseline", "end"), ("stories", "beginning"), ("opinions", "end")])
def test_a_text_that_was_cut_is_announced(visit, run, end):
    page = visit(run=run)
    page.locator("#text").fill("The film was bad. " * 150)
    error = page.locator(".error").first
    expect(error).to_contain_text(f"The text is longer than the model reads, so its {end} was cut.")
    if run == "opinions":  # the other sentence stays
        expect(error).to_contain_text("a text has 600 words, and at most 200 can be left out in turn")
    page.locator("#text").fill("The film was bad.")
    expect(error).to_have_text("")


@pytest.mark.parametrize("run", ["baseline", "stories", "opinions"])
def test_no_attention_of_a_text_stays_when_it_is_deleted(visit, run):
    page = visit(run=run)
    expect(page.locator(".map")).to_be_visible()
    page.locator("#text").fill("")
    expect(page.locator(".map")).to_be_hidden()


def test_the_sliders_change_the_distribution(visit, address):
    page = visit(run="stories")
    prompt = page.locator("#text").input_value()
    body = {"inputs": prompt, "run": "stories", "seed": 1, "max_new_tokens": 1, "details": True}
    plain = ask(address, "generate", **body, temperature=1.0, top_p=1.0)["outputs"][0]["tokens"][0]["next"]
    sharp = ask(address, "generate", **body, temperature=0.1, top_p=0.05)["outputs"][0]["tokens"][0]["next"]
    shares = page.locator(".candidate .share")
    percent = round(plain[0]["probability"] * 100)
    expect(shares.first).to_have_text(f"{percent} % → {percent} %")
    for name, value in (("Temperature", "0.1"), ("Top-p", "0.05")):
        page.get_by_label(name).fill(value)
        page.wait_for_timeout(300)
    assert len(sharp) == 1
    expect(shares.first).to_have_text(f"{percent} % → 100 %")
    expect(shares.nth(1)).to_have_text(re.compile("never"))


def test_classes_have_probabilities_and_words_their_effects(visit, address):
    page = visit(run="opinions")
    sentence = page.locator("#text").input_value()
    (right,) = ask(address, "classify", inputs=sentence, run="opinions", occlusion=True)["outputs"]
    expect(page.locator(".classes .chosen bdi")).to_have_text(right["label"])
    shown = page.locator(".classes .chosen .share").inner_text()
    assert float(re.sub("[>% ]", "", shown)) == pytest.approx(right["probability"] * 100, abs=0.6)
    words = page.locator(".words .word")
    assert words.locator("bdi").all_inner_texts() == sentence.split()
    effects = [int(text.replace("−", "-")) for text in words.locator(".share").all_inner_texts()]
    assert effects == [pytest.approx(word["effect"] * 100, abs=0.6) for word in right["words"]]


def test_two_runs_stand_side_by_side(visit, address):
    page = visit(run="baseline")
    page.get_by_label("beside").select_option("variant")
    panels = page.locator(".panel")
    expect(panels).to_have_count(2)
    page.locator("#text").fill("The old woman buys the red book.")
    for panel, run in zip(panels.all(), ("baseline", "variant"), strict=True):
        answer = ask(address, "translate", inputs="The old woman buys the red book.", run=run, num_beams=4)
        expect(panel.locator(".output")).to_have_text(answer["outputs"][0]["text"])
    boxes = [panel.bounding_box() for panel in panels.all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    outputs = [set(text.split()) for text in page.locator(".output").all_inner_texts()]
    marked = {word for text in page.locator("mark").all_inner_texts() for word in text.split()}
    assert outputs[0] ^ outputs[1] <= marked


def test_answers_to_different_texts_are_not_compared(visit):
    page = visit(run="baseline")
    outputs = {"Old.": ("eins zwei", "eins drei"), "New.": ("eins vier", None), "Last.": ("eins", "eins zwei")}
    held = []

    def answer(route):
        body = route.request.post_data_json
        text = outputs.get(body["inputs"], ("", ""))[body["run"] == "variant"]
        output = {"text": text, "candidates": [{"text": text, "score": -1.0}], "tokens": [], "truncated": False}
        if text is None:
            held.append(route)
        else:
            route.fulfill(json={"run": body["run"], "outputs": [output]})

    page.route("**/v1/translate", answer)
    page.get_by_label("beside").select_option("variant")
    page.locator("#text").fill("Old.")
    expect(page.locator("mark")).to_have_text(["zwei", "drei"])
    page.locator("#text").fill("New.")
    expect(page.locator(".output")).to_have_text(["eins vier", "eins drei"])  # the answer to the older text is there
    expect(page.locator("mark")).to_have_count(0)
    held[0].fulfill(status=503, json={"detail": BUSY})
    expect(page.locator(".output")).to_have_text(["eins vier", ""])
    expect(page.locator(".panel").nth(1).locator(".error").first).to_have_text(BUSY)
    expect(page.locator("mark")).to_have_count(0)
    page.locator("#text").fill("Last.")
    expect(page.locator("mark")).to_have_text(["zwei"])


def test_the_page_works_by_keyboard(visit):
    page = visit(run="baseline")
    expect(page.locator(".strip .token").first).to_be_visible()
    page.locator("#text").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.strip .token')"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".strip .token").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.candidate')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".strip .token.forced")).to_have_count(2)


def test_the_keyboard_writes_one_candidate_after_the_other(visit):
    page = visit(run="stories")
    expect(page.locator(".map")).to_be_visible()
    page.locator(".candidate").first.focus()
    for count in (1, 2):
        with page.expect_request("**/v1/attention"):  # which follows the candidates of the next token
            page.keyboard.press("Enter")
        expect(page.locator(".written .token")).to_have_count(count)
        assert page.evaluate("document.activeElement.matches('.candidate')")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", ["baseline", "stories", "opinions"])
def test_pictures_in_light_and_dark(visit, tmp_path, width, run):
    folder, grounds = Path(os.environ.get("PYTEST_PICTURES", tmp_path)), set()
    for scheme in ("light", "dark"):
        page = visit(run=run, viewport={"width": width, "height": 844}, color_scheme=scheme)
        expect(page.locator(".map")).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width  # nothing stands out at the right
        page.screenshot(path=folder / f"{run}_{width}_{scheme}.png", full_page=True)
        grounds.add(background(page))
    assert len(grounds) == 2


def test_colours_can_be_chosen_and_stay(visit):
    page = visit(color_scheme="light")
    light = background(page)
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
    dark = background(page)
    page.reload()
    assert background(page) == dark != light


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    if given := os.environ.get("PYTEST_AXE"):
        return Path(given).read_text()
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing, which fetches axe-core")
    done = subprocess.run([npm, "install", "--prefix", folder, "--no-audit", AXE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch {AXE}: {done.stderr[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("run", ["baseline", "stories", "opinions"])
def test_axe_finds_nothing_serious(visit, axe, run, scheme):
    page = visit(run=run, color_scheme=scheme, bypass_csp=True, viewport={"width": 390, "height": 844})
    expect(page.locator(".map")).to_be_visible()
    if run == "baseline":
        page.get_by_label("beside").select_option("variant")
        expect(page.locator(".map")).to_have_count(2)
        page.locator(".strip .token").first.click()
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def holds_no_html(page):
    made = "document.querySelectorAll('main img, main script, main b').length"
    return page.evaluate(f"[window.hacked === undefined, {made}]")


@pytest.mark.parametrize("run", ["baseline", "stories", "opinions"])
def test_a_hostile_sentence_shows_as_text(visit, run):
    page = visit(run=run)
    page.locator("#text").fill(HOSTILE)
    page.wait_for_timeout(1500)
    expect(page.locator(".map")).to_be_visible()
    assert holds_no_html(page) == [True, 0]
    if run == "opinions":
        shown = " ".join(page.locator(".words bdi").all_inner_texts())
        assert "<script>window.hacked" in shown and "␛[31mred" in shown and "⟨202E⟩evil" in shown


def test_a_hostile_answer_shows_as_text(visit):
    page = visit(run="baseline")
    token = {"id": 7, "text": HOSTILE, "probability": 0.5, "next": [{"id": 7, "text": HOSTILE, "probability": 0.5}]}
    output = {"text": HOSTILE, "candidates": [{"text": HOSTILE, "score": -1.0}], "tokens": [token], "truncated": False}
    page.route("**/v1/translate", lambda route: route.fulfill(json={"run": "baseline", "outputs": [output]}))
    page.locator("#text").fill("The dog sleeps.")
    expect(page.locator(".output")).to_contain_text("<script>window.hacked = 1</script>")
    expect(page.locator(".output")).to_contain_text("␛[31mred")
    page.locator(".strip .token").click()
    expect(page.locator(".candidates .candidate .piece")).to_contain_text("<img src=x")
    assert holds_no_html(page) == [True, 0]


def test_a_hundred_thousand_characters_get_a_sentence_and_not_a_freeze(visit):
    page = visit(run="baseline")
    page.locator("#text").fill("<b>dog</b> " * 9091)
    expect(page.locator(".error").first).to_contain_text("at most 10,000 characters")
    assert holds_no_html(page) == [True, 0]
    page.locator("#text").fill("The dog sleeps.")
    expect(page.locator(".error").first).to_have_text("")
    expect(page.locator(".output")).not_to_have_text("")


def test_a_server_that_has_ended_is_named(visit):
    page = visit(run="baseline")
    page.route("**/v1/translate", lambda route: route.abort())
    page.locator("#text").fill("The dog sleeps.")
    expect(page.locator(".error").first).to_contain_text("The server does not answer")


def test_a_server_with_a_token_asks_for_it(visit, run_directories):
    process, url = started([f"run={run_directories[-1]}"], MULTIHEAD_SERVE_TOKEN="secret words")
    try:
        page = visit(url)
        page.get_by_label("This server asks for its token.").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#notice")).to_have_text("The server refused this token.")
        expect(page.locator("#token")).to_be_visible()
        page.locator("#token").fill("secret words")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator(".classes li")).to_have_count(2)
        expect(page.locator("#notice")).to_be_hidden()
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def static_address(tmp_path):
    write_static(tmp_path, ROOT / "docs" / "page_recorded.json")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_the_page_of_the_site_answers_without_a_server(visit, static_address):
    page = visit(static_address)
    errors = page.locator(".error")
    for run in page.locator("#run option").all_inner_texts():
        page.locator("#run").select_option(run)
        for example in page.locator(".example").all():
            example.click()
            page.wait_for_timeout(400)
            expect(page.locator(".map")).to_be_visible()
            assert "".join(errors.all_inner_texts()) == ""
    page.locator("#run").select_option("stories")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator(".written .token").nth(3)).to_be_visible()
    expect(page.get_by_role("button", name="Write", exact=True)).to_be_visible(timeout=20_000)
    assert "".join(errors.all_inner_texts()) == ""
    expect(page.locator("#text")).to_have_attribute("readonly", "")
