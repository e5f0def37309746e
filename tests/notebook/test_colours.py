"""The colours of figures: seen on both grounds, and told apart with two of the three primary colours."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from course_lib.notebook.plots import COLOURS, INK, INK_ON_DARK

WHITE, DARK = "#ffffff", "#111111"  # pages; JupyterLab's dark notebooks
# What readers with two kinds of cones see, in linear RGB: Machado, Oliveira and Fernandes 2009
EYES = {
    "all three": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(colour: str, ground: str) -> float:
    """The ratio of WCAG 2, from 1 to 21."""
    low, high = sorted(linear(one) @ (0.2126, 0.7152, 0.0722) + 0.05 for one in (colour, ground))
    return high / low


def lab(colour: str, eye: str) -> np.ndarray:
    """CIELAB of a colour as that eye sees it."""
    seen = np.clip(np.array(EYES[eye]) @ linear(colour), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    x, y, z = np.where((t := xyz / (0.9505, 1.0, 1.0888)) > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("ground", [WHITE, DARK])
@pytest.mark.parametrize("colour", COLOURS)
def test_curves_are_seen_on_both_grounds(colour, ground):
    assert contrast(colour, ground) >= 3


def test_text_is_read_on_its_own_ground_and_made_out_on_the_other():
    assert min(contrast(INK, WHITE), contrast(INK_ON_DARK, DARK)) >= 4.5
    assert min(contrast(INK, DARK), contrast(INK_ON_DARK, WHITE)) >= 3


@pytest.mark.parametrize("eye", EYES)
def test_any_two_colours_are_told_apart(eye):
    nearest = min(np.linalg.norm(lab(one, eye) - lab(other, eye)) for one, other in itertools.combinations(COLOURS, 2))
    assert nearest >= 18  # Okabe and Ito's palette has 16
