"""What a notebook's cells share: the line of start(), the banner, show() and the table of claims."""

import pytest
import torch

from course_lib import data, evidence, least_squares, machine, models, notebook
from course_lib.experiments import channel_choices
from course_lib.lessons import channel_pruning as channel_lesson
from course_lib.lessons import filter_pruning as filter_lesson
from course_lib.lessons import network_trimming as trimming_lesson
from course_lib.lessons import thinet as thinet_lesson
from course_lib.lessons import weight_pruning as weight_lesson
from course_lib.lessons import why_compress as first_lesson
from course_lib.notebook import plots
from course_lib.papers import channel_pruning, network_trimming, weight_pruning

pytestmark = pytest.mark.timeout(240)  # some take ten seconds on an idle machine


def test_start_says_what_it_runs_on(capsys):
    env = notebook.start("mnist", seed=3)
    printed = capsys.readouterr().out
    for word in (
        "smoke",
        "mnist-5k",
        "3,500 training",
        "500 validation",
        "1,000 test",
        "seed 3",
        torch.__version__.split("+")[0],
        "STAND-IN DATA",
    ):
        assert word in printed
    first = torch.rand(2)
    notebook.start("mnist", seed=3)
    assert torch.equal(torch.rand(2), first)
    assert env.baseline("lenet-5") is not env.baseline("lenet-5")


def test_offline_at_lesson_scale_goes_on_with_a_banner_that_names_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_SCALE", "lesson")
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    env = notebook.start("mnist")
    printed = capsys.readouterr().out
    assert env.splits.name == "mnist-5k"
    assert "STAND-IN DATA: mnist-5k instead of mnist" in printed
    assert "python -m course_lib data mnist" in printed


def test_at_paper_scale_a_stand_in_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_SCALE", "paper")
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(RuntimeError, match="paper scale refuses stand-ins"):
        notebook.start("mnist")


def test_the_banner_escapes_what_it_is_told():
    splits = data.Splits(*[data.Split(torch.zeros(1), torch.zeros(1))] * 3, "mnist-5k", "mnist", "<script>")
    assert "<script>" not in notebook._banner(splits)._repr_html_()


def test_show_prints_the_real_source_without_the_long_docstring(capsys):
    text = notebook._shortened(weight_pruning.sparsity_mask)
    assert text.startswith("def sparsity_mask(weight: Tensor, sparsity: float) -> Tensor:")
    assert "smallest_first = weight.detach().abs().flatten().argsort(stable=True)" in text
    assert "Raises" not in text and text.count('"""') == 2
    namespace = dict(vars(weight_pruning))
    exec(text, namespace)  # what is shown runs
    weight = torch.randn(5, 5)
    assert torch.equal(namespace["sparsity_mask"](weight, 0.4), weight_pruning.sparsity_mask(weight, 0.4))


def test_show_names_the_file_of_a_decorated_function(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    notebook.show(channel_pruning.prune)
    assert shown[0].data.startswith("`course_lib/papers/channel_pruning.py`\n```python\n@torch.no_grad()\ndef prune(")


def test_claims_put_the_verdict_in_words(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "lesson")
    rows = [
        notebook.Claim("a < b", "by counting", "1 and 2", True),
        notebook.Claim("x", "y", "z", False),
        notebook.Claim("12x at no loss", "points", "99.1 -> 99.2 %", evidence.verdict([0.1, 0.2, 0.3], margin=-0.1), "8 and 8"),
        notebook.Claim("faster on a GPU", "", "", None),
    ]
    lines = [row.line() for row in rows]
    assert [line["verdict"] for line in lines] == ["holds", "does not hold here", "holds", "not tested here"]
    assert (lines[2]["effect"], lines[2]["networks"], lines[2]["epochs"]) == ("+0.20", "3", "8 and 8")
    assert lines[2]["95 % interval"] == "-0.05 to +0.45"
    table = notebook.claims(*rows)
    assert "+0.20" in repr(table) and "a &lt; b" in table._repr_html_()
    assert "networks" not in repr(notebook.claims(*rows[:2]))


def test_stand_in_data_decide_nothing():
    line = notebook.Claim("a < b", "by counting", "1 and 2", evidence.verdict([1.0, 1.1])).line()
    assert line["verdict"] == "stand-in data decide nothing"


def test_the_panels_view_counts_what_is_left():
    env = notebook.start("mnist")
    model = env.baseline("lenet-300-100")
    before = model.fc1.weight.clone()
    fig = weight_lesson.threshold_view(model, env.splits.test.take(50), dict(fc1=1.0, fc2=0.0, fc3=0.0))
    kept = int(weight_pruning.threshold_mask(before, 1.0).sum()) + int((model.fc2.weight != 0).sum()) + 1_000
    assert f"{kept:,} of 266,200" in fig.get_suptitle()
    assert torch.equal(model.fc1.weight, before)


def test_the_filters_view_counts_what_goes():
    env = notebook.start("cifar10")
    model, few = env.baseline("vgg-small"), env.splits.test.take(50)
    fig = filter_lesson.filters_view(model, few, "conv6", 0.25, "largest")
    assert fig.axes[0].get_title("left").startswith("32 of 128 filters go: 6.1% fewer MACs")  # conv6 has 9.4 of 38.6 M
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert heights == sorted(heights, reverse=True)
    assert {bar.get_facecolor() for bar in fig.axes[0].patches[:32]} != {bar.get_facecolor() for bar in fig.axes[0].patches[32:]}
    assert len(filter_lesson.filters_panel(model, few).children) == 4


def test_the_trimming_panel_counts_what_is_left_on_either_side():
    env = notebook.start("mnist")
    model, few = env.baseline("lenet-5-relu"), env.splits.test.take(50)
    apoz = network_trimming.apoz(model, few, ["conv2", "fc1"])
    kept = {layer: len(network_trimming.neurons_to_keep(values, 1.0)) for layer, values in apoz.items()}
    titles = [
        trimming_lesson.trimming_view(model, few, apoz, dict(conv2=1.0, fc1=1.0), side).get_suptitle()
        for side in trimming_lesson.SIDES
    ]
    assert all(f"conv2 50 -> {kept['conv2']}, fc1 500 -> {kept['fc1']}" in title for title in titles)
    assert trimming_lesson.trimming_view(model, few, apoz, dict(conv2=3.0, fc1=1.0), "loud ones go").get_suptitle() not in titles
    panel = trimming_lesson.trimming_panel(model, few, apoz)
    assert [control.description for control in panel.children[:-1]] == ["conv2", "fc1", "side"]
    panel.children[2].value = "loud ones go"


def test_the_roofline_panel_says_who_waits_for_memory():
    with torch.device("meta"):
        layers = machine.traffic(models.build("lenet-5"), torch.empty(1, 1, 28, 28))
    roof = machine.Roof(rate=10e9, bandwidth=4e9)  # ridge 2.5; conv1 5.7, conv2 13, fc1 and fc2 a quarter
    title = first_lesson.roofline_view(roof, layers, batch=1, bits=32).axes[0].get_title("left")
    least = (288_000 + 1_600_000) / 10e9 + 4 * (400_000 + 1_300 + 5_000 + 510) / 4e9
    share = 4 * (400_000 + 1_300 + 5_000 + 510) / 4e9 / least
    assert title == f"2 of 4 layers wait for memory, {share:.0%} of at least {1e3 * least:.3g} ms an image"
    title = first_lesson.roofline_view(roof, layers, batch=256, bits=32).axes[0].get_title("left")
    assert title.startswith("1 of 4")  # fc2: 5,000 / (4 * 510) is below 2.5 for any batch
    panel = first_lesson.roofline_panel(roof, {"lenet-5": layers, "dense layers": layers[layers.kind == "dense"]})
    assert [control.description for control in panel.children[:-1]] == ["network", "batch", "bits a weight"]
    panel.children[1].value = 64


def test_moving_a_slider_redraws():
    env = notebook.start("mnist")
    panel = weight_lesson.threshold_panel(env.baseline("lenet-300-100"), env.splits.test.take(50))
    sliders, output = panel.children[:-1], panel.children[-1]
    assert [slider.description for slider in sliders] == ["fc1", "fc2", "fc3"]
    sliders[0].value = 2.0
    assert output is not None


def test_the_lasso_view_says_what_the_kept_ones_explain():
    env = notebook.start("cifar10")
    model = env.baseline("vgg-small")
    layers = channel_choices.layers_of(model, ["conv3", "conv5"], env.splits.train.images[:40], positions=20)
    fig = channel_lesson.lasso_view(model, layers, "conv5", 0.25)
    weight = model.conv5.weight.detach().flatten(2)
    kept = channel_pruning.choose(layers["conv5"].seen, weight, 16)
    share = least_squares.explained(layers["conv5"].unseen, least_squares.refit(layers["conv5"].seen, kept)[0])
    assert fig.get_suptitle().startswith(f"conv5 with 16 of 64 channels: {share:.0%} explained")
    assert channel_lesson.lasso_panel(model, layers).children[0].options == ("conv3", "conv5")


def test_the_contributions_view_says_what_the_criterion_kept():
    env = notebook.start("cifar10")
    model, images = env.baseline("vgg-small"), env.splits.train.images[:20]
    for criterion in ("ThiNet", "L1"):
        fig = thinet_lesson.contributions_view(model, images, env.splits.test.take(50), "conv2", 0.5, criterion)
        assert f"{criterion} keeps 16 of 32" in fig.get_suptitle()
        assert [len(bars) for bars in fig.axes[0].containers] == [16, 16]
    panel = thinet_lesson.contributions_panel(model, images, env.splits.test.take(50))
    panel.children[1].value = 0.2
    assert panel.children[0].options[0] == "conv1" and len(model.conv2.weight) == 32


def test_every_figure_has_a_title_and_named_axes():
    plots.use_style()
    figures = [
        plots.lines([1, 2], {"a": [1, 2]}, title="t", xlabel="x (s)", ylabel="y (m)", spread={"a": ([0, 1], [2, 3])}),
        plots.bars({"a": 1.0}, title="t", ylabel="y (pJ)", log=True),
        plots.weight_histograms({"a": torch.randn(10).numpy()}, title="t"),
        plots.share_histograms({"a": torch.rand(10).numpy()}, title="t", xlabel="x", gone={"a": torch.rand(10).numpy() > 0.5}),
        plots.matrices({"a": torch.eye(2).numpy()}, title="t", unit="u", values=True),
        plots.roofline(1e9, 1e9, {"a": ([0.5, 2.0], [4e8, 9e8])}, title="t"),
    ]
    for fig in figures:
        ax = fig.axes[0]
        assert (ax.get_title(loc="left") or fig.get_suptitle()) and ax.get_ylabel()
