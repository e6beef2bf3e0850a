"""The published measure of Multi30k, and the ladder of levers."""

import gzip

import pytest
import sacrebleu

pytest.importorskip("sacremoses")

PLAIN = [
    "Ein Mann mit ergrauenden Haaren rasiert seinen Bart.",
    "Ein Boston Terrier läuft über saftig-grünes Gras vor einem weißen Zaun.",
    'Eine Frau hält einen großen Scheck für "Kids\' Food Basket".',
    "Zwei Jungen essen ihr McDonald's-Menü im Außenbereich, umgeben von vielen anderen Leuten.",
]
PUBLISHED = [
    "ein mann mit ergrauenden haaren rasiert seinen bart .",
    "ein boston terrier läuft über saftig-grünes gras vor einem weißen zaun .",
    "eine frau hält einen großen scheck für &quot; kids &apos; food basket &quot; .",
    "zwei jungen essen ihr mcdonald &apos; s-menü im außenbereich , umgeben von vielen anderen leuten .",
]
"""Lines of test_2016_flickr.de, and the same lines of the file that the published score is of."""


def test_lines_become_those_that_were_scored(tmp_path, capsys):
    from multi30k_published import require_equal, tokenised

    assert tokenised(PLAIN, "de") == PUBLISHED
    file = tmp_path / "theirs.de.gz"
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in PUBLISHED).encode()))
    require_equal(PLAIN, file, "de")
    assert f"all 4 references ({sum(len(line.split()) for line in PUBLISHED)} tokens)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^1 references .*\nline 2\n  ours   ein boston .*\n  theirs ein boston"):
        require_equal([PLAIN[0], PLAIN[1].replace("-", " "), *PLAIN[2:]], file, "de")


def test_the_scores_are_sacrebleus():
    from multi30k_published import scores

    outputs = [PLAIN[0].lower(), PLAIN[1].replace("läuft", "rennt"), PLAIN[2].replace('"', ""), "Zwei Jungen essen."]
    found = scores(outputs, PLAIN, "de")
    by_hand = [
        "ein mann mit ergrauenden haaren rasiert seinen bart .",
        "ein boston terrier rennt über saftig-grünes gras vor einem weißen zaun .",
        "eine frau hält einen großen scheck für kids &apos; food basket .",
        "zwei jungen essen .",
    ]
    published = sacrebleu.corpus_bleu(by_hand, [PUBLISHED], tokenize="none", force=True).score
    assert found["published"]["bleu"] == pytest.approx(published)
    assert "|tok:none|" in found["published"]["signature"]
    assert found["13a"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, [PLAIN]).score)
    lowercase = sacrebleu.corpus_bleu(outputs, [PLAIN], lowercase=True).score
    assert found["13a_lowercase"]["bleu"] == pytest.approx(lowercase)
    assert len({round(each["bleu"], 6) for each in found.values()}) == 3
