"""The pieces that losses share, by hand."""

from __future__ import annotations

import torch

from poise.losses import both_ways, weighted_mean


def test_a_weighted_mean_by_hand():
    values = torch.tensor([1.0, 5.0, 100.0])
    assert weighted_mean(values, torch.tensor([3.0, 1.0, 0.0])).item() == 2.0
    small = torch.tensor([0.25, 0.25, 0.0])
    assert weighted_mean(values, small).item() == 3.0, "weights below 1 are normalised as well"


def test_nothing_to_average_is_no_loss_and_no_gradient():
    values = torch.tensor([2.0, 3.0], requires_grad=True)
    loss = weighted_mean(values, torch.zeros(2))
    (100.0 * loss).backward()
    assert loss.item() == 0
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0]


def test_a_soft_label_mixes_the_two_outcomes():
    won, lost, label = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([4.0, 4.0, 4.0]), torch.tensor([1.0, 0.0, 0.25])
    assert both_ways(won, lost, label).tolist() == [0.5, 4.0, 0.25 * 0.5 + 0.75 * 4.0]
