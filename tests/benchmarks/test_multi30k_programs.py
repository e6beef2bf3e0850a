"""The published measure of Multi30k, and the ladder of levers."""

import gzip
import json
from pathlib import Path

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


@pytest.fixture
def trained(monkeypatch):
    """Replaces processes: a training leaves a result, a score grows with the penalty. Returns the commands."""
    import multi30k_levers as driver

    commands = []

    def command(settings, program, *words):
        commands.append([program, *words])
        named = dict(word.split("=", 1) for word in words)
        if program == "train.py":
            run = Path(named["run_dir"])
            run.mkdir(parents=True, exist_ok=True)
            (run / "config.yaml").write_text("")
            steps = int(named["trainer.max_steps"])
            if named.get("task.simcut_alpha") == "7":
                raise SystemExit("killed")
            result = {"steps": steps, "tokens": 100 * steps, "seconds": 6.0, "tokens_per_second": 50, "parameters": 9}
            (run / "result.json").write_text(json.dumps(result | {"test/bleu": 99.0}))
        else:
            assert named["split"] == "val"
            bleu = 10 * float(named["decoding.length_penalty"]) + ("simcut" in named["run"])
            score = {measure: {"bleu": bleu} for measure in ("published", "13a", "13a_lowercase")}
            Path(named["out"]).write_text(json.dumps(score | {"split": "val"}))

    monkeypatch.setattr(driver, "command", command)
    return driver, commands


def test_the_ladder_chooses_on_validation_and_is_not_climbed_twice(trained, tmp_path, capsys):
    driver, commands = trained
    words = [f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out.json'}", "penalties=0.5,1.5", "workers=1"]
    driver.main([*words, "levers=plain,simcut", "minutes=2"])
    probe, full = (dict(word.split("=", 1) for word in command[1:]) for command in commands[:2])
    assert probe["trainer.max_steps"] == "40" and full["trainer.max_steps"] == "60"  # two seconds a step
    assert len(commands) == 2 * (2 + 2)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["simcut"]["length_penalty"] == 1.5 and found["simcut"]["val"]["published"]["bleu"] == 16
    assert (found["plain"]["tokens"], found["plain"]["minutes"]) == (6000, 0.1)
    assert set(found["plain"]["val"]) == {"published", "13a", "13a_lowercase"} and 99.0 not in found["plain"].values()
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["| lever", "| ---", "| simcut", "| plain"]
    driver.main([*words, "levers=plain,simcut", "minutes=2"])
    assert len(commands) == 8
    driver.main([*words, "levers=plain", "minutes=3"])
    assert len(commands) == 8 + 1 + 2  # the probe is known


def test_an_interrupted_lever_is_resumed_and_two_stages_share_the_steps(trained, tmp_path):
    driver, commands = trained
    words = [f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out.json'}", "steps=20", "workers=1", "penalties=1.0"]
    for _ in range(2):
        with pytest.raises(SystemExit, match="killed"):
            driver.main([*words, "levers=simcut", "task.simcut_alpha=7"])
    assert "resume=auto" not in commands[0] and "resume=auto" in commands[1]
    assert [word for word in commands[0] if word.startswith("task.simcut_alpha")] == ["task.simcut_alpha=7"]
    del commands[:]
    driver.main([*words, "levers=both_directions"])
    first, second = (dict(word.split("=", 1) for word in command[1:]) for command in commands[:2])
    assert first["task"] == "multitask" and second["init_from"] == first["run_dir"]
    assert first["trainer.max_steps"] == second["trainer.max_steps"] == "10"
    assert json.loads((tmp_path / "out.json").read_text())["both_directions"]["tokens"] == 2000
    with pytest.raises(SystemExit, match="levers=gru: there are plain, simcut"):
        driver.main(["levers=gru"])
    with pytest.raises(SystemExit, match="distilled needs a teacher: teacher=RUN"):
        driver.main(["levers=distilled"])


def test_every_lever_can_be_typed():
    from multi30k_levers import LEVERS, filled, length_of

    from multihead.config.compose import compose

    for lever in LEVERS.values():
        for stage in filter(None, (lever.before, lever.words)):
            own = [word.replace("{distilled}", "a.de") for word in filled(stage, 400)]
            compose(["experiment=multi30k_en_de", *own, *length_of(400)])
