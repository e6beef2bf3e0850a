"""A picture shows what a command prints in a terminal of this width."""

import re
import sys


def test_the_width_and_the_text(tmp_path, monkeypatch):
    import picture_of_output

    code = "import os, sys; print(os.get_terminal_size().columns, sys.stdout.isatty(), 'x' * 50)"
    out = tmp_path / "out.svg"
    words = ["width=40", f"folder={tmp_path}", f"out={out}", "--", sys.executable, "-c", code]
    monkeypatch.setattr(sys, "argv", ["picture_of_output.py", *words])
    picture_of_output.main()
    drawn = out.read_text()
    texts = [text.replace("&#160;", " ") for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
    assert any("40 True" in text for text in texts) and "@font-face" not in drawn
    assert max(map(len, texts[1:])) <= 40
