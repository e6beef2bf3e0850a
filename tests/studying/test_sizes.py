"""Variants are made equal by their depth and by the width of their feed-forward, to within 1 %."""

import pytest

from multihead.config.compose import compose
from multihead.errors import ConfigError
from multihead.studying.sizes import Counter, Size, deepen, equalise, with_d_ff, with_layers


def line(slope, rest):
    """Counts of a model of which the feed-forward has ``slope`` parameters for each of its units."""
    counted = []

    def count(d_ff):
        counted.append(d_ff)
        return Size(rest + slope * d_ff, 3.0 * (rest + slope * d_ff))

    return count, counted


def test_two_counts_give_the_width():
    """By hand: 10,000 = 1,000 + 90 d_ff, so d_ff = 100."""
    count, counted = line(90, 1_000)
    found, size = equalise("parameters", Size(10_000, 0.0), 150, count, "s.yaml:5")
    assert (found, size.parameters) == (100, 10_000) and len(counted) == 3
    assert equalise("flops", Size(0, 30_000.0), 150, count, "s.yaml:5")[0] == 100


def test_what_is_equal_already_stays():
    count, counted = line(90, 1_000)
    assert equalise("parameters", Size(10_003, 0.0), 100, count, "")[0] == 100 and counted == [100]


def test_a_rounded_mechanism_still_gets_there():
    """The width of a plugin's feed-forward may be rounded up, so that the counts are not on one line."""

    def count(d_ff):
        return Size(1_000 + 90 * (8 * -(-d_ff // 8)), 0.0)

    found, size = equalise("parameters", Size(1_000 + 90 * 96, 0.0), 150, count, "")
    assert 88 < found <= 96 and size.parameters == 9_640


def test_what_cannot_be_equal_is_refused():
    """Without a feed-forward of one unit, the variant still has 1 + 1,000 parameters; the baseline has 900."""
    with pytest.raises(ConfigError, match=r"no model.d_ff gives 900 parameters within 1 %; model.d_ff=1 gives 1,001"):
        equalise("parameters", Size(900, 0.0), 64, line(1, 1_000)[0], "s.yaml:5")


def test_the_depth_comes_nearest():
    """By hand: 10,000 - 1,000 = 9,000 are 4.5 layers of 2,000, of which the variant has 3; 4 and 5 are as near."""
    counted = []

    def count(change):
        counted.append(change)
        return Size(1_000 + 2_000 * (3 + change), 0.0)

    assert deepen("parameters", Size(10_000, 0.0), count, -2) == 1
    assert deepen("parameters", Size(15_100, 0.0), count, -2) == 4
    assert deepen("parameters", Size(100, 0.0), count, -2) == -2  # a layer is left
    assert deepen("parameters", Size(7_000, 0.0), count, -2) == 0


def test_each_stack_keeps_a_layer():
    own = compose(["task=lm", "debug=smoke", "model.num_encoder_layers=1", "model.num_decoder_layers=3"])
    model = with_layers(own, -2).config.model
    assert (model.num_encoder_layers, model.num_decoder_layers) == (1, 1)
    model = with_layers(own, 2).config.model
    assert (model.num_encoder_layers, model.num_decoder_layers) == (3, 5)


@pytest.mark.unhurried
def test_a_gated_feed_forward_gets_two_thirds_of_the_width():
    """By hand: 2 d f + f = 4,160 for ReLU with d = 32 and f = 64; 3 d f + 2 f = 98 f for SwiGLU; so f = 42.4."""
    words = ["task=lm", "debug=smoke", "model.activation=relu"]
    base = compose(words)
    counter = Counter(base)
    wanted = counter.count(base)
    own = compose([*words[:2], "model.activation=swiglu"])
    found, size = equalise("parameters", wanted, 64, lambda width: counter.count(with_d_ff(own, width)), "")
    assert found == 42 and abs(size.parameters / wanted.parameters - 1) < 0.01
    assert wanted.parameters - counter.count(with_d_ff(base, 63)).parameters == 2 * 32 + 1
    assert 0 < wanted.flops - counter.count(with_d_ff(base, 32)).flops < wanted.flops / 2


def test_the_rows_of_a_fold_are_counted(tmp_path):
    """Of 60 rows, 12 are tested on and 12 are held out for validation."""
    (tmp_path / "t.tsv").write_text("".join(f"text {number}\t{'ab'[number % 2]}\n" for number in range(60)))
    words = ["task=classification", "model=tiny", "data=files", f"data.train={tmp_path / 't.tsv'}", "data.folds=5"]
    columns = ["data.columns=[text,label]", "data.roles={text: text, label: label}", "data.splits.val=12"]
    assert Counter(compose([*words, *columns, "data.cache=false"])).fold_ratio == pytest.approx(12 / 36)
