"""Records the answers that the page of the site shows, by using the page: what it asks is what is recorded.

    python benchmarks/record_page.py run=[RUN,RUN2] names=[baseline,variant] out=docs/page_recorded.json

It starts `multihead show`, opens Chromium, chooses examples, forces tokens, moves the sliders and lets language models
write. It needs `pip install playwright` and Chromium. Numbers are rounded, and few candidates are kept, so that the
file stays small. Two runs of one task can be looked at side by side, since the answers of each are recorded.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Response, sync_playwright

EXAMPLES = 3
FORCED = 2
"""Number of tokens in whose place the second candidate is forced, in each example."""
CANDIDATES = 5
LIMITS = {"temperature": {"min": 0.5, "max": 1.5, "step": 0.5}, "top_p": {"min": 0.5, "max": 1, "step": 0.5}}
"""Ranges of the sliders in the page of the site."""
SETTLED = 0.6
"""Seconds without a request after which the page has all its answers."""


class Recorder:
    """Keeps what the server answers.

    Args:
        page: The page.
    """

    def __init__(self, page: Page):
        self.page = page
        self.runs: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[str, dict[str, Any], Any]] = {}
        self.open = 0
        self.changed = time.monotonic()
        page.on("request", lambda request: self._count(1))
        page.on("requestfailed", lambda request: self._count(-1))
        page.on("requestfinished", lambda request: self._keep(request.response()))

    def _count(self, change: int) -> None:
        self.open += change
        self.changed = time.monotonic()

    def _keep(self, response: Response | None) -> None:
        self._count(-1)
        if response is None or not response.ok or "/v1/" not in response.url:
            return
        verb = response.url.rpartition("/")[2]
        if verb == "runs":
            self.runs = response.json()["runs"]
            return
        body = response.request.post_data_json
        if body.pop("stream", False):
            answer = self._written(response.text())
        else:
            answer = response.json()
        if verb == "generate":
            for token in answer["outputs"][0]["tokens"][: len(body.get("prefix", []))]:
                token["next"] = []  # the page looks at what follows the prefix only
        self.answers[json.dumps([verb, body], sort_keys=True)] = (verb, body, short(answer))

    def _written(self, text: str) -> dict[str, Any]:
        """The answer to a stream as if it had not been one."""
        events = [json.loads(line.removeprefix("data:")) for line in text.split("\n\n") if line]
        tokens = [event["token"] for event in events if "token" in event]
        return {"outputs": [{"text": events[-1]["text"], "candidates": [], "tokens": tokens, "truncated": False}]}

    def settle(self) -> None:
        """Waits until the page asks nothing more."""
        self.changed = time.monotonic()
        while self.open or time.monotonic() < self.changed + SETTLED:
            self.page.wait_for_timeout(50)


def short(value: Any) -> Any:
    """An answer with rounded numbers and few candidates; the weights of attention have two digits."""
    if isinstance(value, float):
        return int(value) if value == int(value) else float(f"{value:.3g}")
    if isinstance(value, list):
        return [short(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: each[:CANDIDATES] if key == "next" else each for key, each in value.items()}
    return {key: rounded(each) if key in ("encoder", "decoder", "cross") else short(each) for key, each in kept.items()}


def rounded(weights: Any) -> Any:
    """Weights of attention with two digits."""
    if isinstance(weights, list):
        return [rounded(each) for each in weights]
    return weights if weights is None else int(weights) if weights in (0, 1) else round(weights, 2)


def record_translations(page: Page, recorder: Recorder) -> None:
    """Forces the second candidate at the least certain tokens of the example that is shown."""
    tokens = page.locator(".strip .token")
    shares = tokens.locator(".share").all_inner_texts()
    order = sorted(range(len(shares)), key=lambda place: certainty(shares[place]))
    for place in order[:FORCED]:
        tokens.nth(place).click()
        page.locator(".tokens .candidate:not(.chosen)").first.click()
        recorder.settle()
        page.get_by_role("button", name="Let the model choose again").click()
        recorder.settle()


def certainty(share: str) -> float:
    """A percentage of the page as a number: ">99 %" is 99."""
    return float(share.strip("<>% \n"))


def record_continuations(page: Page, recorder: Recorder) -> None:
    """Writes with every position of the sliders; looks at each token, and takes single tokens, with the first one."""
    write = page.locator("button.main")
    for temperature in steps(LIMITS["temperature"]):
        for top_p in steps(LIMITS["top_p"]):
            for slider, value in zip(page.locator("input[type=range]").all(), (temperature, top_p), strict=True):
                slider.fill(str(value))
            recorder.settle()
            write.click()
            recorder.settle()
            assert write.inner_text() == "Write"
            if temperature == top_p == 1:
                for token in page.locator(".written .token").all():
                    token.click()
                    recorder.settle()
            page.get_by_role("button", name="Start again").click()
            recorder.settle()
    one = page.get_by_role("button", name="One token")
    for _ in range(8):
        if one.is_disabled():
            break
        one.click()
        recorder.settle()


def steps(limit: dict[str, float]) -> list[float]:
    """The values of a slider, the page's own value 1 last."""
    count = round((limit["max"] - limit["min"]) / limit["step"]) + 1
    values = [limit["min"] + number * limit["step"] for number in range(count)]
    return sorted(values, key=lambda value: value == 1)


def record(page: Page, url: str) -> dict[str, Any]:
    """Uses the page with each run; returns the content of ``recorded.json``."""
    recorder = Recorder(page)
    page.goto(url)
    page.wait_for_selector(".panel")
    for run in recorder.runs:
        run["examples"] = run["examples"][:EXAMPLES]
        page.select_option("#run", run["name"])
        recorder.settle()
        for number in range(len(run["examples"])):
            page.locator(".example").nth(number).click()
            recorder.settle()
            if "translate" in run["verbs"] and number < EXAMPLES - 1:
                record_translations(page, recorder)
            if "generate" in run["verbs"] and number == 0:
                record_continuations(page, recorder)
        sys.stdout.write(f"{run['name']}: {len(recorder.answers)} answers so far\n")
    return {"runs": recorder.runs, "limits": LIMITS, "answers": list(recorder.answers.values())}


@contextmanager
def shown(words: list[str]) -> Iterator[str]:
    """Starts `multihead show`; yields its address."""
    command = [sys.executable, "-m", "multihead", "show", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://[\w.:]+/", line)))
        finally:
            process.terminate()


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("out=")]
    out = Path(dict(word.split("=", 1) for word in sys.argv[1:])["out"])
    with shown(words) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        found = record(browser.new_page(), url)
        browser.close()
    out.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found['answers'])} answers, {out.stat().st_size:,} bytes in {out}\n")


if __name__ == "__main__":
    main()
