"""Study files are checked before anything runs, and an error names the line."""

from pathlib import Path

import pytest

from multihead.config.study import read_study
from multihead.config.study_check import check
from multihead.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "sweeps" / "studies").glob("*.yaml"))

FILE = """\
question: Is RMSNorm better?
words: [model=tiny]
baseline: {layer: []}
variants:
  rms: [model.norm=rms_norm]
  gated: [model.activation=swiglu]
tasks:
  translation: [task=translation, trainer.max_steps=50]
  lm: [task=lm]
seeds: [3, 5, 9]
equal: parameters
budget: 60
smallest_effect: {translation: 0.5}
tune: {trials: 4, parameters: {optim.lr: {min: 0.001, max: 0.01}}}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*changes):
        text = FILE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "s.yaml").write_text(text)
        return "s.yaml"

    return write


def test_a_study_is_read(write):
    study = read_study(write())
    assert (study.name, study.baseline, study.variants) == ("s", "layer", ["rms", "gated"])
    assert len(study.variants) * len(study.tasks) == 4 and study.seeds == [3, 5, 9] and study.max_seeds == 3
    assert study.run_words("translation", "rms") == [
        *("model=tiny", "task=translation", "trainer.max_steps=50", "model.norm=rms_norm")
    ]
    assert (study.budget, study.alpha, study.power) == (60, 0.05, 0.8)
    (rate,) = study.tuning().swept
    assert (rate.name, rate.low, rate.high) == ("optim.lr", 0.001, 0.01)
    assert read_study(write(("seeds: [3, 5, 9]", "seeds: auto"))).max_seeds == 10


def test_it_is_composed_for_each_task_and_variant(write):
    found = check(read_study(write()), ["data.batch_tokens=512"])
    assert len(found) == 6 and {c.config.data.batch_tokens for c in found.values()} == {512}
    assert found["lm", "rms"].config.model.norm == "rms_norm" and found["lm", "layer"].config.task.name == "lm"


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ([("question:", "qestion:")], 1, "qestion: no such key"),
        ([("question: Is RMSNorm better?", "alpha: 0.05")], 1, "question: is missing"),
        ([("budget: 60", "alpha: 2")], 12, "alpha: must be a number above 0 and below 0.5; got 2"),
        ([("{layer: []}", "{layer: [], other: []}")], 3, "baseline: must be one name with its words; got 2"),
        ([("  rms:", "  layer:")], 5, "variants.layer: the baseline has this name"),
        ([("[model.norm=rms_norm]", "model.norm=rms_norm")], 5, "variants.rms: must be a list of words"),
        ([("[model.norm=rms_norm]", "[rms_norm]")], 5, "variants.rms: must have words of the form key=value"),
        ([("[model.norm=rms_norm]", "[plugin=v.py]")], 5, "variants.rms: a study file cannot set plugin"),
        ([("[model=tiny]", "[seed=3]")], 2, "words: a study file cannot set seed"),
        ([("[3, 5, 9]", "[3, 3]")], 10, "seeds: must be auto, or a list of 2 to 50 different whole numbers"),
        ([("[3, 5, 9]", "[3, 5]\nmax_seeds: 4")], 11, "max_seeds: only with seeds: auto"),
        ([("equal: parameters", "resize: depth")], 11, "resize: only with equal: parameters or flops"),
        ([("equal: parameters", "equal: params")], 11, "equal: must be one of none, parameters"),
        ([("{translation: 0.5}", "{translate: 0.5}")], 13, "smallest_effect.translate: no such task"),
        ([("trials: 4", "trials: 0")], 14, "tune.trials: must be a whole number of at least 1; got 0"),
        ([("min: 0.001", "mim: 0.001")], 14, "optim.lr"),
    ],
)
def test_what_is_not_valid_is_named_with_its_line(write, changes, where, what):
    with pytest.raises(ConfigError) as error:
        read_study(write(*changes))
    assert error.value.where == f"s.yaml:{where}" and what in error.value.what


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ([("model.norm=rms_norm", "model.norm=rms")], 5, "model.norm: must be one of"),
        ([("[model=tiny]", "[model=tiny, model.d_modle=3]")], 2, "model.d_modle: no such key"),
        ([("[task=lm]", "[task=ln]")], 9, "task"),
        ([("[model.norm=rms_norm]", "[model.d_ff=9]")], 5, "rms: sets model.d_ff, which equal: parameters sets"),
        ([("[model.norm=rms_norm]", "[model.num_decoder_layers=9]"), ("budget: 60", "resize: depth")],
         5, "rms: sets model.num_decoder_layers, which equal: parameters sets"),
        ([("[model.norm=rms_norm]", "[task.monitor=val/chrf]"), ("lm: [task=lm]", "other: [task=translation]")],
         5, "rms: task.monitor must be val/bleu on translation, as for layer; got val/chrf"),
        ([("equal: parameters", "equal: tokens"), ("[model.norm=rms_norm]", "[trainer.max_steps=9]")],
         11, "target tokens on translation, and layer reads"),
        ([("[model.norm=rms_norm]", "[model.norm=layer_norm]")],
         5, "rms and layer have the same configuration on translation, so that their difference is 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_configuration_is_named_with_its_line(write, changes, where, what):
    with pytest.raises(ConfigError) as error:
        check(read_study(write(*changes)))
    assert error.value.where == f"s.yaml:{where}" and what in error.value.what


ABLATE = """\
ablate:
  rms: [model.norm=rms_norm]
  rotary: [model.position=rotary]
  gated: [model.activation=swiglu, model.bias=false]
"""


def test_a_switch_that_changes_nothing_is_an_error(write):
    start, end = FILE.index("variants:"), FILE.index("tasks:")
    nothing = ABLATE.replace("position=rotary", "position=sinusoidal")
    with pytest.raises(
        ConfigError, match="without_rotary and layer have the same configuration on translation"
    ) as error:
        check(read_study(write((FILE[start:end], nothing))))
    assert error.value.where == "s.yaml:6"


def test_an_ablation_leaves_out_one_switch_at_a_time(write):
    """By hand: the baseline has all switches, and each variant all but one, one alone, or none."""
    start, end = FILE.index("variants:"), FILE.index("tasks:")
    study = read_study(write((FILE[start:end], ABLATE), ("{layer: []}", "{all: [model.dropout=0.1]}")))
    rms, rotary, gated = "model.norm=rms_norm", "model.position=rotary", ["model.activation=swiglu", "model.bias=false"]
    assert study.baseline == "all" and study.arms == {
        "all": ["model.dropout=0.1", rms, rotary, *gated],
        "without_rms": ["model.dropout=0.1", rotary, *gated],
        "without_rotary": ["model.dropout=0.1", rms, *gated],
        "without_gated": ["model.dropout=0.1", rms, rotary],
        "no_switch": ["model.dropout=0.1"],
        "only_rms": ["model.dropout=0.1", rms],
        "only_rotary": ["model.dropout=0.1", rotary],
        "only_gated": ["model.dropout=0.1", *gated],
    }
    assert study.contrasts["only_gated"] == ("only_gated", "no_switch") and len(study.contrasts) == 6
    assert study.contrasts["without_gated"] == ("without_gated", "all")
    assert len(check(study)) == 16
    only_out = read_study(write((FILE[start:end], ABLATE + "add_in: false\n")))
    assert list(only_out.arms) == ["layer", "without_rms", "without_rotary", "without_gated"]
    assert list(only_out.contrasts) == list(only_out.arms)[1:]
    wrong = ABLATE.replace("model.position=rotary", "model.position=rotray")
    with pytest.raises(ConfigError) as error:
        check(read_study(write((FILE[start:end], wrong))))
    assert error.value.where == "s.yaml:6" and "model.position" in error.value.what
    with pytest.raises(ConfigError, match="takes the place of variants"):
        read_study(write(("tasks:", ABLATE + "tasks:")))
    with pytest.raises(ConfigError, match="add_in: only with ablate"):
        read_study(write(("tasks:", "add_in: true\ntasks:")))
    two = read_study(write((FILE[start:end], "ablate: {a: [model.norm=rms_norm], b: [model.bias=false]}\n")))
    assert list(two.arms) == ["layer", "without_a", "without_b", "no_switch"]  # without b is only a
    assert two.contrasts["only_a"] == ("without_b", "no_switch")
    with pytest.raises(ConfigError, match="at least 2 switches"):
        read_study(write((FILE[start:end], "ablate: {rms: [model.norm=rms_norm]}\n")))


FOLDS = [
    ("seeds: [3, 5, 9]", "folds: 5"),
    ("tune: {trials: 4, parameters: {optim.lr: {min: 0.001, max: 0.01}}}\n", "repeats: 2\n"),
]
TWO_FOLDS = [("seeds: [3, 5, 9]", "folds: 2"), (FOLDS[1][0], "repeats: 1\n")]


def test_folds_take_the_place_of_seeds(write, monkeypatch):
    study = read_study(write(*FOLDS))
    assert (study.folds, study.seeds, study.max_seeds) == (5, list(range(1, 11)), 10)
    assert study.run_words("lm", "rms")[0] == "data.folds=5"
    with pytest.raises(ConfigError) as error:
        check(study)
    assert error.value.where == "s.yaml:10" and "must be 0 for the built-in grammar" in error.value.what
    for changes, what in (
        ([("seeds: [3, 5, 9]", "seeds: [1, 2]\nfolds: 5")], "seeds: not with folds"),
        ([FOLDS[0]], "tune: not with folds .the trials would see rows that other folds test"),
        ([FOLDS[1]], "repeats: only with folds"),
        (
            [FOLDS[1], ("seeds: [3, 5, 9]", "folds: 2"), ("repeats: 2", "repeats: 1")],
            "folds: 2 in 1 partition are too few",
        ),
        ([("[model=tiny]", "[data.folds=3]")], "words: a study file cannot set data.folds"),
    ):
        with pytest.raises(ConfigError, match=what):
            read_study(write(*changes))


LADDER = """\
ladder:
  small: [model.d_model=32, trainer.max_steps=20]
  middle: [model.d_model=64, trainer.max_steps=40]
  large: [model.d_model=96, trainer.max_steps=80]
"""
TO_LADDER = [
    ("smallest_effect: {translation: 0.5}", "compute: minutes"),
    ("tune: {trials: 4, parameters: {optim.lr: {min: 0.001, max: 0.01}}}\n", LADDER),
    ("[task=lm]", "[task=lm, task.monitor=val/bits_per_byte, task.monitor_mode=min]"),
    ("trainer.max_steps=50", "task.monitor=val/loss, task.monitor_mode=min"),
]


def test_a_ladder_trains_each_task_at_each_size(write):
    study = read_study(write(*TO_LADDER, ("seeds: [3, 5, 9]", "seeds: auto")))
    assert list(study.tasks) == [f"{task}.{size}" for task in ("translation", "lm") for size in study.ladder]
    assert study.tasks["lm.middle"][-2:] == ["model.d_model=64", "trainer.max_steps=40"]
    assert (study.seeds, study.compute) == ([1, 2, 3], "minutes")
    assert check(study)["lm.large", "gated"].config.model.d_model == 96


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ([("task.monitor=val/bits_per_byte, ", "")], "lm: the optimum of val/loss is not known"),
        ([("[task=lm, task.monitor=val/bits_per_byte, task.monitor_mode=min]", "[task=classification]")],
         "lm: a ladder needs a loss as task.monitor; got val/accuracy"),
        ([("  large: [model.d_model=96, trainer.max_steps=80]\n", "")], "ladder: must have 3 to 12 sizes; got 2"),
        ([("large:", "large.r:")], "ladder.large.r: the name of a size has no '.'"),
        ([("budget: 60", "max_seeds: 5")], "max_seeds: not with ladder"),
        ([("budget: 60", "optimum: {tm: 3}")], "optimum.tm: must be a task of the file and a number"),
        ([("model.d_model=96", "model.d_modle=96")], "model.d_modle: no such key"),
    ],
)  # fmt: skip
def test_what_a_ladder_cannot_be(write, changes, what):
    with pytest.raises(ConfigError) as error:
        check(read_study(write(*TO_LADDER, *changes)))
    assert what in error.value.what
    with pytest.raises(ConfigError, match="compute: only with ladder"):
        read_study(write(("budget: 60", "compute: flops")))


@pytest.mark.unhurried
@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_the_studies_that_ship_are_sound(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read_study(str(path))
    typed = ["plugin=docs/examples/gated_attention.py"] if path.stem == "gated" else []
    assert len(check(study, typed)) == len(study.tasks) * len(study.arms) and study.budget


def test_there_is_a_study_of_each_part():
    assert {"attention", "positions", "norms", "feed_forward", "optimizers"} <= {path.stem for path in SHIPPED}
