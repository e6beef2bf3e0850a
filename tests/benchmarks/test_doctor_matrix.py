"""The matrix of the doctor has every example plugin and every seeded defect, and says which model is not right."""

from pathlib import Path

from multihead.checking.outcome import found, ok

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_every_example_plugin_is_a_model_of_the_matrix():
    from doctor_matrix import example, plugins

    tried = {file for part in (example, plugins) for _, _, file, _ in part()}
    reader = EXAMPLES / "conll.py"  # it is no part of a model
    assert tried == {*EXAMPLES.glob("*.py"), *EXAMPLES.glob("plugins/*.py")} - {reader}


def test_an_alarm_and_a_defect_that_is_not_found_are_not_right(monkeypatch, capsys):
    import doctor_matrix

    model, models = ("task=lm", {}, None), doctor_matrix.Models()
    monkeypatch.setattr(models, "get", lambda *case: (None, None))
    for outcome, without, expected in ((ok("a"), True, False), (found("a"), False, True)):
        outcome.name = "cache"
        monkeypatch.setattr(doctor_matrix, "examine", lambda *_, outcome=outcome: [outcome])
        assert doctor_matrix.judged(models, (*model, ""))["right"] is without
        assert doctor_matrix.judged(models, (*model, "cache"))["right"] is expected
        assert not doctor_matrix.judged(models, (*model, "padding"))["right"]
    assert "NOT RIGHT:  task=lm {}: wanted padding" in capsys.readouterr().out
