"""Warped digits: the same for a seed, and turned, scaled, sheared and shifted by no more than is said."""

import math

import pytest
import torch

from course_lib.data import warping
from course_lib.data.warping import warped

AMOUNTS = ("DEGREES", "SCALE", "SHEAR", "PIXELS")


@pytest.fixture
def only(monkeypatch):
    """Leaves one of the four changes."""

    def leave(*names: str) -> None:
        for name in AMOUNTS:
            if name not in names:
                monkeypatch.setattr(warping, name, 0.0)

    return leave


def blobs(count: int, wide: float = 2.0, high: float = 4.0) -> torch.Tensor:
    """Images of a smooth upright ellipse in the middle."""
    place = torch.arange(28.0) - 13.5
    image = torch.exp(-((place[None, :] / wide) ** 2 + (place[:, None] / high) ** 2) / 2)
    return image.expand(count, 1, 28, 28).clone()


def moments(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mass, centre and second moments, in pixels, downwards (y) and to the right (x)."""
    place = torch.arange(28.0) - 13.5
    mass = images.sum((1, 2, 3))
    x, y = (images.sum((1, axis)) @ place / mass for axis in (2, 3))
    pairs = {"xx": (2, 0), "yy": (0, 2), "xy": (1, 1)}
    found = {name: torch.einsum("nchw,w,h->n", images, place**a, place**b) / mass for name, (a, b) in pairs.items()}
    return dict(mass=mass, x=x, y=y, **found)


def test_a_seed_chooses_the_maps_and_images_stay_as_they_were():
    images = torch.rand(20, 1, 28, 28)
    before = images.clone()
    assert torch.equal(warped(images, 3), warped(images, 3)) and torch.equal(images, before)
    assert not torch.equal(warped(images, 3), warped(images, 4))


def test_the_maps_are_the_same_on_every_machine():
    placed = moments(warped(blobs(4), 7))
    assert torch.stack([placed["x"], placed["y"]]).flatten().tolist() == pytest.approx(PLACED, abs=1e-3)


PLACED = [-0.096, 0.253, -0.517, -0.468, 0.12, -0.446, 0.499, -0.196]


def test_without_any_change_images_stay(only):
    only()
    images = torch.rand(5, 1, 28, 28) - 0.4
    assert torch.allclose(warped(images, 0), images, atol=1e-4)


def test_background_comes_in_at_the_border():
    images = torch.full((50, 1, 28, 28), 2.8)
    images[:, :, 10:18, 10:18] = -0.42
    moved = warped(images, 0)
    assert float(moved.min()) == pytest.approx(-0.42, abs=1e-5) and float(moved.max()) <= 2.8 + 1e-5


def test_shifts(only):
    only("PIXELS")
    found = moments(warped(blobs(400), 1))
    for axis in ("x", "y"):
        assert 0.55 < found[axis].abs().max() <= 0.6 + 1e-3 and abs(float(found[axis].mean())) < 0.06
        assert 0.3 < found[axis].std() < 0.4  # 0.6 / sqrt(3) = 0.346


def test_turns(only):
    only("DEGREES")
    found = moments(warped(blobs(400), 1))
    angles = torch.rad2deg(torch.atan2(2 * found["xy"], found["yy"] - found["xx"]) / 2)
    assert 10.5 < angles.abs().max() < 11.2 and 5.7 < angles.std() < 7.0  # 11 / sqrt(3) = 6.35
    assert torch.allclose(found["mass"], blobs(1).sum(), rtol=0.01)


def test_scales(only):
    only("SCALE")
    round_ones = blobs(400, 3.5, 3.5)  # smooth, so that interpolation adds little mass
    side = (moments(warped(round_ones, 1))["mass"] / round_ones[0].sum()).sqrt()
    assert 0.908 < side.min() < 0.92 and 1.08 < side.max() < 1.0925


def test_shears(only):
    only("SHEAR")
    found = moments(warped(blobs(400), 1))
    leaning = found["xy"] / found["yy"]
    assert 0.14 < leaning.abs().max() < 0.152 and torch.allclose(found["mass"], blobs(1).sum(), rtol=0.01)
    assert torch.allclose(found["yy"], torch.tensor(math.pow(4.0, 2)), rtol=0.02)
