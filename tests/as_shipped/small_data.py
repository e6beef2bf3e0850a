"""The files of the data sets that experiments name, in their own formats and with few rows."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

NOUNS = {"man": "Mann", "dog": "Hund", "judge": "Richter", "guest": "Gast", "king": "König", "baker": "Bäcker"}
VERBS = {"sees": "sieht", "hears": "hört", "knows": "kennt", "paints": "malt", "finds": "findet", "helps": "rettet"}
WORDS = {
    "old": "alten",
    "small": "kleinen",
    "brave": "mutigen",
    "green": "grünen",
    "quiet": "stillen",
    "rich": "reichen",
}
PLACES = {"today": "heute", "at home": "daheim", "in town": "in der Stadt", "again": "wieder", "soon": "bald"}


def pairs(count, seed):
    """Different English and German sentences."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        first, second, word, other = (draw.choice(list(words)) for words in (NOUNS, NOUNS, WORDS, WORDS))
        verb, place = draw.choice(list(VERBS)), draw.choice(list(PLACES))
        english = f"The {first} {verb} the {word} and {other} {second} {place}."
        german = (
            f"Der {NOUNS[first]} {VERBS[verb]} den {WORDS[word]} und {WORDS[other]} {NOUNS[second]} {PLACES[place]}."
        )
        found[english] = german
    return list(found.items())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def multi30k(folder):
    for seed, (split, count) in enumerate({"train": 200, "val": 8, "test_2016_flickr": 8}.items()):
        english, german = zip(*pairs(count, seed), strict=True)
        write(folder / f"{split}.en.gz", "\n".join(english) + "\n")
        write(folder / f"{split}.de.gz", "\n".join(german) + "\n")


def aeslc(folder):
    for split, count in {"train": 560, "dev": 20}.items():  # 500 are held out
        rows = [{"body": f"Hi, {a} {b} Thanks", "subject": a[4:24]} for a, b in pairs(count, count)]
        write(folder / f"{split}.jsonl.gz", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def ag_news(folder):
    for name, count in {"train_20k": 1060, "test_even": 20}.items():  # 1,000 are held out
        table = io.StringIO()
        rows = [[number % 4 + 1, a[:30], b] for number, (a, b) in enumerate(pairs(count, count))]
        csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
        write(folder / f"{name}.csv.gz", table.getvalue())


def sst2(folder):
    for name, count in {"train_sentences": 200, "dev": 30}.items():
        rows = [f"{a}\t{int('old' in a)}" for a, _ in pairs(count, count)]
        write(folder / f"{name}.tsv.gz", "\n".join(["sentence\tlabel", *rows]) + "\n")


def tinyshakespeare(folder):
    lines = [f"{a.split()[1].upper()}:\n{a}\n" for a, _ in pairs(110, 0)]
    write(folder / "input.txt.gz", "\n".join(lines))


def wikitext2(folder):
    for name, count in {"train": 150, "valid": 30}.items():
        write(folder.with_name("wikitext-2") / f"{name}.txt.gz", "".join(f" {a} \n" for a, _ in pairs(count, count)))


DATA_SETS = {function.__name__: function for function in (multi30k, aeslc, ag_news, sst2, tinyshakespeare, wikitext2)}
"""The name of a data set (``data=NAME``) to what writes its files."""


def write_all(folder: Path) -> Path:
    """Writes every data set below ``folder``, which is then MULTIHEAD_DATA."""
    for name, function in DATA_SETS.items():
        function(folder / name)
    return folder
