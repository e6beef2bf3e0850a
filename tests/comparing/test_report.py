"""Reports: what they say, that they are well-formed, and that a page needs nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser

import pytest

from multihead.comparing import report
from multihead.comparing.curves import COLOURS, MAX_POINTS, draw, stroke, thinned
from multihead.comparing.overview import render
from multihead.comparing.report import Comparison, Curve, Pair, Report, System, difference_digits, p_text, signed
from multihead.comparing.significance import Spread, Test

ODD = 'model.d_model=64 <b>&"|50%_$#{}~^\\'
"""A name with every character that some format treats as its own."""


@pytest.fixture
def found():
    systems = [
        System("base", ["r/a1", "r/a2"], [1, 2], [30.0, 31.0], Spread(30.5, 0.70711, 24.15, 36.85), 1_000_000),
        System(ODD, ["r/b1"], [1], [33.25], Spread(33.25), 1_200_000),
    ]
    test = Test(-2.75, -4.5, -1.0, 0.004, "t-test over seeds and examples", (("permutation", 0.0002),))
    said = f"{ODD} is better than base by 2.8 BLEU (95 % CI 1.0 to 4.5, p = 0.008 corrected)"
    curves = {
        "val/bleu": [Curve(0, "r/a1", [(0, 1.0), (100, 20.0)]), Curve(1, "r/b1", [(100, 30.0)])],
        "train/loss": [Curve(0, "r/a1", [(step, 5 - step / 1000) for step in range(2000)])],
    }
    return Report(
        "translation",
        "test/bleu",
        "max",
        systems,
        [Pair("base", ODD, test, 0.008, said), Pair(ODD, "base", None, None, "no test")],
        {"model.d_model": ["32", "64"]},
        ["parameters differ by 20.0%"],
        ["one <note>"],
        curves,
    )


class Reader(HTMLParser):
    """Collects tags with their attributes, and checks that they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_closed_offline_and_escaped(found):
    text = render(Comparison({"translation": found}), "html")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "b"}  # no <b>: names are escaped
    assert not re.search(r"https?://|url\(|@import", text)
    addresses = [attrs["src"] for _, attrs in reader.tags if "src" in attrs]
    assert len(addresses) == 2 and all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    said = " ".join(reader.text)
    for part in (ODD, "parameters differ by 20.0%", "one <note>", "model.d_model", "r/a2", "-2.8", "0.008"):
        assert part in said, part
    assert "base (2 seeds)" in said and "(1 seed)" in said
    assert all(f"border-top-color: {colour}" in text for colour in COLOURS[:2])
    assert "light dark" in text


def test_without_matplotlib_the_page_says_what_the_curves_need(found, monkeypatch):
    monkeypatch.setattr(report, "installed", lambda package: False)
    text = render(Comparison({"translation": found}), "html")
    assert "<img" not in text and "Curves need matplotlib: pip install &#34;multihead[plot]&#34;" in text


def test_a_system_has_a_colour_and_a_run_of_one_point_is_a_dot(found):
    (axes,) = draw(found.curves["val/bleu"]).axes
    first, second = axes.lines
    assert [first.get_color(), second.get_color()] == list(COLOURS[:2])
    assert (first.get_marker(), second.get_marker()) == ("None", "o")
    assert first.get_xydata().tolist() == [[0, 1.0], [100, 20.0]]
    (axes,) = draw(found.curves["train/loss"]).axes
    assert len(axes.lines[0].get_xdata()) == MAX_POINTS
    assert stroke(0) != stroke(len(COLOURS))  # another line in the same colour


def test_markdown(found):
    lines = render(Comparison({"translation": found}), "markdown").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    bars = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert bars == [7] * 8  # two tables of six columns; the bar in the name is escaped
    assert "| base | 2 | 30.50 | 0.71 | 24.15 to 36.85 | 1,000,000 |" in rows
    assert any("| -2.8 | -4.5 to -1.0 | 0.004 | 0.008 | t-test over seeds and examples; permutation p < 0.001 |" in row
               for row in rows)  # fmt: skip
    assert any(line.startswith("- ") and "is better than base" in line for line in lines)
    assert "Warning: parameters differ by 20.0%  " in lines


def test_latex(found):
    text = render(Comparison({"translation": found}), "latex")
    body = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\[&%$#_{}]|\\text(backslash|bar|ascii\w+)\{\}|\$[<>]\$", "", "\n".join(body))
    assert not re.search(r"[%#~^<>|$_]", bare)
    assert bare.count("{") == bare.count("}")
    rows = [line for line in bare.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 3 and all(row.count("&") == 5 for row in rows)
    assert r"95 \% CI 1.0 to 4.5" in text


def test_json(found):
    content = json.loads(render(Comparison({"translation": found}), "json"))
    assert content["systems"][0]["spread"]["deviation"] == 0.70711
    assert content["pairs"][0]["corrected"] == 0.008
    assert content["pairs"][0]["test"]["also"] == [["permutation", 0.0002]]
    assert "curves" not in content


def test_thinning_keeps_the_mean():
    points = [(float(i), float(i % 7)) for i in range(1200)]
    fewer = thinned(points)
    assert len(fewer) == 400
    assert fewer[0] == (1.0, 1.0)  # of 0, 1, 2
    assert thinned(points[:400]) == points[:400]


def test_numbers_in_words():
    assert [p_text(p) for p in (0.0004, 0.0412, 0.2, 1.0)] == ["p < 0.001", "p = 0.041", "p = 0.20", "p = 1.00"]
    assert p_text(0.0004, bare=True) == "< 0.001" and p_text(None) == "-"
    assert signed(-0.0001, 2) == "0.00" and signed(-0.26, 1) == "-0.3"
    assert signed(0.26, 1, plus=True) == "+0.3" and signed(0.0, 2, plus=True) == "0.00"
    widths = [(0, 1.6, 1), (0, 25, 0), (-0.004, 0.011, 3), (3, 3, 2)]
    assert [difference_digits(Test(0.0, low, high, 1.0, "")) for low, high, _ in widths] == [d for *_, d in widths]
