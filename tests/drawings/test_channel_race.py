"""The race of channels as drawn: each knot solves the LASSO, and the refit leaves less error than any betas."""

import pytest
import torch

from course_lib.drawings import channel_pruning as drawing


def test_every_knot_solves_the_lasso():
    """No channel's product with the residual exceeds the penalty, and that of each channel in the race equals it."""
    race, z = drawing.race(), drawing.CONTRIBUTIONS.double()
    for penalty, beta in zip(race.penalties, race.betas, strict=True):
        products = z.T @ (z.sum(1) - z @ beta)
        assert (products.abs() <= penalty + 1e-9).all()
        torch.testing.assert_close(products[beta != 0], (penalty * beta.sign())[beta != 0])


def test_the_second_largest_is_out_first_since_the_largest_stands_in_for_it():
    sizes = drawing.CONTRIBUTIONS.norm(dim=0)
    assert sizes.argsort(descending=True)[:2].tolist() == [0, 1]
    assert drawing.race().out == ["B", "E", "D"] and drawing.race().left == ["A", "C"]
    assert drawing.error(drawing.refitted("AC")) < drawing.error(drawing.refitted("AB"))


def test_the_refit_is_least_squares():
    """A and C are orthogonal, so each beta is <Z_i, Y> / ||Z_i||^2: (9 + 7.8) / 9 and 1."""
    assert drawing.refitted("AC").tolist() == pytest.approx([16.8 / 9, 0, 1, 0, 0])
