"""The pipeline on ResNet-20: what its file holds, and that batch norms are read back as they were."""

import copy

import pytest
import torch

from course_lib import data, distillation, models
from course_lib.data import Splits
from course_lib.experiments import rows, smallest_tables
from course_lib.experiments import smallest as runs
from course_lib.experiments import smallest_residual as residual
from course_lib.masks import weight_layers
from tests.test_smallest_runs import ABOUT

SETTING = runs.RESIDUAL | dict(keeps=[200_000, 100_000], pruning=[1, 1], quantizing=1, copies=1, teachers=1, seeds=1)


@pytest.fixture(scope="module")
def few() -> Splits:
    whole = data.load("cifar10", scale="smoke")
    return Splits(whole.train.take(96), whole.validation.take(60), whole.test.take(60), whole.name, whole.requested)


@pytest.fixture(scope="module")
def trained(few):
    return models.pretrained("resnet-20", few.name, 0)


def test_a_row_holds_the_files_of_every_number_of_weights(few, trained, monkeypatch):
    monkeypatch.setattr(residual.smallest, "EVERY", 1)
    monkeypatch.setattr(residual.smallest, "batches", lambda given, count, seed: distillation.batches(given, 5, seed))
    monkeypatch.setattr(distillation, "BATCH", 16)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: few)
    row = rows.checked(SETTING | runs.run(SETTING, seed=0, scale="smoke", device="cpu") | ABOUT)
    found = rows.frame([row])
    assert found.stage.tolist() == ["pruned", "coded", "pruned", "coded"] and found.epochs.tolist() == [1, 2, 2, 3]
    biases = found.parameters - sum(layer.weight.numel() for layer in weight_layers(trained).values())
    assert (found.nonzeros <= found.keep + biases).all()
    coded, pruned = (found[found.stage == stage].bytes.to_numpy() for stage in ("coded", "pruned"))
    assert (coded < pruned).all() and coded[1] < coded[0]
    assert len(smallest_tables.residual_table(found)) == 2 and smallest_tables.points(found).empty


def test_a_file_is_read_back_as_the_network_that_it_was_written_from(few, trained):
    model, taken = copy.deepcopy(trained), {}
    for layer in weight_layers(model).values():
        taken[layer.weight] = layer.weight.detach().abs().max().item() / 9
        layer.weight.data = (layer.weight / taken[layer.weight]).round() * taken[layer.weight]
    again = residual.decoded(residual.compressed(model, taken))
    for name, layer in weight_layers(again).items():
        wanted = model.get_submodule(name).weight
        torch.testing.assert_close(layer.weight * (taken[wanted] if name != "fc" else 1), wanted)
    with torch.no_grad():
        ours, theirs = again(few.test.images), model(few.test.images)
    assert (ours - theirs).abs().mean() < 0.05 * theirs.abs().mean(), "factors and summands have 127 levels"
    assert not torch.equal(ours, theirs)


def test_a_layer_s_scale_does_not_cancel_where_a_shortcut_enters(few, trained):
    scaled = copy.deepcopy(trained)
    scaled.stage1[0].norm2.weight.data *= 2
    scaled.stage1[0].norm2.bias.data *= 2
    with torch.no_grad():
        assert (scaled(few.test.images).argmax(1) != trained(few.test.images).argmax(1)).any()


def test_scores_are_float32_whatever_the_precision(few, trained, monkeypatch):
    monkeypatch.setattr(residual, "fastest_precision", lambda *_: torch.bfloat16)
    scores = residual.InFastPrecision(trained, torch.device("cpu"))(few.test.images)
    assert scores.dtype == torch.float32 and not torch.equal(scores, trained(few.test.images))
