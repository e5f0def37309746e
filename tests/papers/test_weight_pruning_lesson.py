"""What notebook 02 shows beside its cells: the loop's source, the tournament, and the arms of its claims."""

import copy

import numpy as np
import pytest
import torch

from course_lib import data, models
from course_lib.drawings import weight_pruning as drawings
from course_lib.experiments import runner, sparse_rows
from course_lib.lessons import pruning_claims, sparse_networks
from course_lib.lessons import weight_pruning as lesson
from course_lib.papers import weight_pruning as paper
from course_lib.surgery.dead_neurons import remove_dead_neurons
from course_lib.training import evaluate


def test_the_loop_that_is_shown_is_the_one_that_runs():
    shown = sparse_networks.heart().data
    assert shown.count("\n") < 12
    assert "for number in range(1, rounds + 1):" in shown and "train(retrain, fixed, number)" in shown


def test_the_tournament_by_hand():
    digits, network = data.load("mnist-5k").test, models.pretrained("lenet-300-100", "mnist-5k")
    by_hand = copy.deepcopy(network)
    by_hand.fc2.weight.data *= paper.sparsity_mask(by_hand.fc2.weight, 0.9)
    kept, lost = sparse_networks.tournament(dict(fc2=0.9), "test")
    assert kept == pytest.approx(0.1 * 30_000 / 266_200)
    assert lost == pytest.approx(100 * (evaluate(network, digits) - evaluate(by_hand, digits)))


def test_a_network_without_zeros_costs_as_much_as_itself():
    network, split = models.build("lenet-300-100"), data.load("mnist-5k").test.take(20)
    table, ratios = sparse_networks.costs({"one": (network, copy.deepcopy(network))}, split)
    assert list(table[""]) == ["dense", "pruned"] and len(set(table["file, sparse if smaller"])) == 1
    assert ratios["one"]["nonzero parameters"] == ratios["one"]["MACs"] == 1


def test_a_layers_table_has_all_layers_of_the_papers_tables():
    networks = {name: models.build(name) for name in ("lenet-300-100", "lenet-5")}
    table = sparse_networks.layers_table(networks, data.load("mnist-5k").test.take(20))
    assert len(table) == 7 + 2 and set(table["kept, here"]) == {"100.0 %"}
    total = table[(table.network == "lenet-5") & (table.layer == "all")].iloc[0]
    assert (total.weights, total["kept, paper"], total["FLOPs left, paper"]) == ("430,500", "8 %", "16 %")


def test_dead_neurons_are_missing_from_the_counts():
    pruned, image = models.build("lenet-300-100"), torch.zeros(1, 1, 28, 28)
    pruned.fc1.weight.data[:10] = 0  # ten neurons without inputs
    table = sparse_networks.dead_table({"one": (pruned, remove_dead_neurons(pruned, image))}, image)
    assert list(table["outputs of its layers"]) == ["300-100-10", "290-100-10"]
    assert list(table["MACs executed"]) == ["266,200", f"{266_200 - 10 * (784 + 100):,}"]


def test_the_loss_alone_is_read_between_the_points_of_the_scan():
    scan = torch.linspace(1.0, 0.0, len(sparse_rows.SCAN), dtype=torch.float64)
    alone = sparse_networks.loss_alone(dict(fc1=scan, fc2=scan), dict(fc1=0.0, fc2=0.1))
    assert alone == pytest.approx(dict(fc1=0.0, fc2=100 * 0.5 / (len(scan) - 1)))


def test_the_dense_network_stands_where_the_iterative_one_has_as_many_epochs():
    points = lesson.tradeoff(runner.recorded("weight-pruning", "lesson"))
    table = lesson.tradeoff_table(points).set_index("change of accuracy (points)")
    dense = points[(points.method == "dense, trained on") & (points.epochs == 3)].change.mean()
    assert table.loc["dense, trained on", "2x"] == f"{dense:+.2f}" and table.loc["L2, iterative", "epochs"] == "3 to 21"


def test_the_claims_rest_on_five_networks_and_are_few():
    rows = runner.recorded("weight-pruning", "lesson")
    theirs, ours = pruning_claims.by_the_paper(), pruning_claims.of_our_own()
    assert len(theirs) <= 7 and len(ours) <= 5  # the paper's eighth is `most_sensitive`
    assert {lesson.claim(rows, *compared).evidence.networks for compared in [*theirs, *ours]} == {5}


def test_the_mean_lead_is_a_difference_of_means():
    rows = runner.recorded("weight-pruning", "lesson")
    means = rows[(rows.kind == "curves") & (rows.rate == 30)].groupby("method").accuracy.mean()
    expected = means["L2, iterative"] - means["L2, retraining"]
    assert lesson.lead(rows, "L2, iterative", "L2, retraining", 30).mean() == pytest.approx(expected)


def test_retraining_in_the_drawing_lowers_the_error_and_keeps_zeros():
    trained, marked, pruned, retrained, again, fewer, final = drawings.states((8, 14))
    assert [int(state.kept.sum()) for state in (trained, pruned, retrained, fewer, final)] == [25, 17, 17, 11, 11]
    assert trained.error < retrained.error < pruned.error and retrained.error < final.error < fewer.error
    for state in (pruned, retrained, fewer, final):
        assert (state.weights[~state.kept] == 0).all()
    assert np.abs(marked.weights[~pruned.kept]).max() < marked.threshold < np.abs(marked.weights[pruned.kept]).min()
    assert again.threshold > marked.threshold


def test_the_share_kept_is_read_off_the_curves():
    network = models.build("lenet-300-100")
    fig = sparse_networks.threshold_figure(network, "a title")
    drawn = {line.get_label(): line.get_ydata() for line in fig.axes[0].lines}
    kept = (network.fc1.weight.abs() > network.fc1.weight.std(correction=0)).float().mean().item()
    assert drawn["fc1"][20] == pytest.approx(100 * kept)  # a quality of 1
    assert drawn["Gaussian"][20] == pytest.approx(100 * float(torch.erfc(torch.tensor(0.5**0.5))), abs=1e-3)
