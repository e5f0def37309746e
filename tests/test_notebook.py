"""What a notebook's cells share: the line of start(), the banner, show() and the table of claims."""

import pytest
import torch

from course_lib import data, evidence, notebook
from course_lib.notebook import plots
from course_lib.papers import channel_pruning, weight_pruning


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
    near, far = evidence.verdict([0.103, 0.104, 0.105], margin=0.1), evidence.verdict([0.3, 0.4, 0.5], margin=0.1)
    ends = [notebook.Claim("a", "", "", found).line()["95 % interval"] for found in (near, far)]
    assert ends == ["+0.102 to +0.106", "+0.15 to +0.65"]  # "+0.10 to +0.11" would hide that it is above 0.1
    table = notebook.claims(*rows)
    assert "+0.20" in repr(table) and "a &lt; b" in table._repr_html_()
    assert "networks" not in repr(notebook.claims(*rows[:2]))


def test_stand_in_data_decide_nothing():
    line = notebook.Claim("a < b", "by counting", "1 and 2", evidence.verdict([1.0, 1.1])).line()
    assert line["verdict"] == "stand-in data decide nothing"


def test_every_figure_has_a_title_and_named_axes():
    plots.use_style()
    figures = [
        plots.lines([1, 2], {"a": [1, 2]}, title="t", xlabel="x (s)", ylabel="y (m)", spread={"a": ([0, 1], [2, 3])}),
        plots.bars({"a": 1.0}, title="t", ylabel="y (pJ)", log=True),
        plots.matrices({"a": torch.eye(2).numpy()}, title="t", unit="u", values=True),
        plots.roofline(1e9, 1e9, {"a": ([0.5, 2.0], [4e8, 9e8])}, title="t"),
    ]
    for fig in figures:
        ax = fig.axes[0]
        assert (ax.get_title(loc="left") or fig.get_suptitle()) and ax.get_ylabel()


def test_a_guess_stands_beside_the_measurement(capsys):
    notebook.reveal("the rate", ..., "12x")
    notebook.reveal("the rate", 5, "12x")
    assert capsys.readouterr().out.splitlines() == [
        "the rate: you have not guessed yet; measured: 12x",
        "the rate: you guessed 5; measured: 12x",
    ]
