"""Losses of classification against torch, and against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from multihead.model.losses import add_loss, added_losses, balanced_weights, class_loss, label_set_loss

torch.manual_seed(0)
LOGITS = torch.randn(20, 4, dtype=torch.float64)
LABELS = torch.randint(4, (20,))
SETS = torch.randint(2, (20, 4))
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(weights, smoothing):
    ours = class_loss(LOGITS, LABELS, weights=weights, label_smoothing=smoothing)
    torchs = F.cross_entropy(LOGITS, LABELS, weights, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(ours, torchs.sum())


def test_focal_loss_by_hand():
    """p = 3/4 and p = 1/2 with gamma 2: (1/4)^2 * -ln(3/4) + (1/2)^2 * -ln(1/2)."""
    logits = torch.tensor([[math.log(3.0), 0.0], [1.0, 1.0]], dtype=torch.float64)
    expected = math.log(4 / 3) / 16 + math.log(2) / 4
    assert class_loss(logits, torch.tensor([0, 1]), focal_gamma=2.0).item() == pytest.approx(expected, rel=1e-12)
    weighted = class_loss(logits, torch.tensor([0, 1]), weights=torch.tensor([3.0, 5.0]).double(), focal_gamma=2.0)
    assert weighted.item() == pytest.approx(3 * math.log(4 / 3) / 16 + 5 * math.log(2) / 4, rel=1e-12)


def test_focal_loss_nears_cross_entropy_as_gamma_falls_and_bears_certainty():
    for weights in (None, WEIGHTS):
        nearly = class_loss(LOGITS, LABELS, weights=weights, focal_gamma=1e-9)
        torch.testing.assert_close(nearly, class_loss(LOGITS, LABELS, weights=weights))
    certain = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = class_loss(certain, torch.tensor([0]), focal_gamma=0.5)
    loss.backward()
    assert loss.item() == 0 and certain.grad.isfinite().all()


def test_binary_cross_entropy_is_torchs_mean_over_classes():
    torch.testing.assert_close(
        label_set_loss(LOGITS, SETS) / len(LOGITS), F.binary_cross_entropy_with_logits(LOGITS, SETS.double())
    )


def test_smoothed_binary_cross_entropy_by_hand():
    """Logit 0 costs ln 2 whatever the target; logit ln 3 with target 1 moved to 0.9: -(0.9 ln 3/4 + 0.1 ln 1/4)."""
    loss = label_set_loss(torch.tensor([[0.0, math.log(3.0)]]).double(), torch.tensor([[0, 1]]), label_smoothing=0.2)
    assert loss.item() == pytest.approx((math.log(2) - 0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4)) / 2, rel=1e-7)


def test_weighted_focal_loss_of_label_sets_by_hand():
    """p = 3/4 of having (target 1) and of not having (target 0), gamma 1, weights 2 of having and 5 of not having."""
    logits = torch.tensor([[math.log(3.0), -math.log(3.0)]], dtype=torch.float64)
    weights = torch.tensor([[5.0, 5.0], [2.0, 2.0]], dtype=torch.float64)
    loss = label_set_loss(logits, torch.tensor([[1, 0]]), weights=weights, focal_gamma=1.0)
    assert loss.item() == pytest.approx((2 + 5) * math.log(4 / 3) / 4 / 2, rel=1e-12)


def test_a_sum_over_no_examples_is_zero_and_has_a_gradient():
    for loss, labels in ((class_loss, LABELS[:0]), (label_set_loss, SETS[:0])):
        logits = LOGITS[:0].clone().requires_grad_()
        total = loss(logits, labels, focal_gamma=2.0)
        total.backward()
        assert total.item() == 0 and logits.grad is not None


def test_balanced_weights_are_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    expected = utils.compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert balanced_weights(torch.bincount(labels)).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_balanced_weights_by_hand():
    """Ham 6 and spam 2 of 8: 8 / (2 * 6) and 8 / (2 * 2); so both classes weigh 4 and all examples 8."""
    assert balanced_weights(torch.tensor([6.0, 2.0])).tolist() == pytest.approx([8 / 12, 2.0])
    of_sets = balanced_weights(torch.tensor([[6.0, 4.0], [2.0, 4.0]]))  # not having, having; two classes
    assert of_sets.tolist() == [pytest.approx([8 / 12, 1.0]), pytest.approx([2.0, 1.0])]


def test_class_weights_of_a_batch_in_bfloat16():
    """precision=bf16-true converts what a batch holds; with task.class_weights=balanced that ended the run."""
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    weights = torch.tensor([0.5, 1.0, 2.0])
    expected = class_loss(logits, labels, weights=weights)
    assert class_loss(logits, labels, weights=weights.bfloat16()) == expected


def test_losses_that_parts_of_a_model_add():
    """They are collected in a training step alone, and an outer step gets none of an inner one's."""
    add_loss(torch.ones(()))  # no step is open
    with added_losses() as outer:
        add_loss(torch.tensor(2.0))
        with added_losses() as inner:
            add_loss(torch.tensor(3.0))
        add_loss(torch.tensor(4.0))
    assert [float(x) for x in outer] == [2, 4] and [float(x) for x in inner] == [3]
    with pytest.raises(ZeroDivisionError), added_losses():
        _ = 1 / 0
    with added_losses() as empty:
        pass
    assert empty == []
