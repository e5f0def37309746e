"""What a row of results must hold, and when it is run again."""

import importlib
import json
import math
import sys

import pytest
import torch

from course_lib import data, models
from course_lib.evidence import NETWORKS
from course_lib.experiments import fingerprints, row_files, rows, runner
from course_lib.papers import weight_pruning
from course_lib.storage import networks
from tests.toy_experiment import FIGURES

ABOUT = dict(
    name="a", experiment="toy", scale="smoke", seed=0, baseline_loss=0.1, seconds=1.0, device="CPU", versions={},
    date="2026-01-01", command="none", fingerprint="0",
)  # fmt: skip
ROW = FIGURES | ABOUT


@pytest.fixture(scope="module")
def splits():
    whole = data.load("mnist")
    return data.Splits(whole.train.take(64), whole.validation.take(100), whole.test.take(200), whole.name, whole.requested)


def test_a_complete_row_is_taken_as_it_is():
    assert rows.checked(ROW) is ROW


@pytest.mark.parametrize("field", rows.SCHEMA)
def test_no_field_may_be_missing(field):
    with pytest.raises(ValueError, match=f"row .* is no row of results: .*{field} is missing"):
        rows.checked({key: value for key, value in ROW.items() if key != field} | ({} if field == "name" else dict(name="a")))


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("seed", 1.5, "expected Integral"),
        ("accuracy", math.nan, "expected a finite number"),
        ("accuracy", 101.0, "expected percent"),
        ("validation", None, "expected Real"),
        ("bytes", 0, "expected more than 0"),
        ("latency_64", -1.0, "expected more than 0"),
        ("network", 3, "expected str"),
        ("macs", True, "expected Integral"),
    ],
)
def test_figures_out_of_their_range_are_refused(field, value, told):
    with pytest.raises(ValueError, match=f"{field} is .*{told}"):
        rows.checked(ROW | {field: value})


def test_each_point_of_a_run_is_a_row_and_is_checked():
    points = [dict(at=1, accuracy=97.0), dict(at=2, accuracy=96.0)]
    run = {key: value for key, value in ROW.items() if key != "accuracy"} | dict(points=points)
    assert [(line["at"], line["accuracy"], line["network"]) for line in rows.flat([run])] == [
        (1, 97.0, "none"),
        (2, 96.0, "none"),
    ]
    rows.checked(run)
    with pytest.raises(ValueError, match="accuracy is missing"):
        rows.checked(run | dict(points=[dict(at=1)]))


def test_an_outcome_is_counted_and_measured(splits, tmp_path):
    model = models.pretrained("lenet-300-100", "mnist-5k")
    result = weight_pruning.prune(model, splits.train, 0.75)
    found = rows.outcome(result.model, splits, removed=50.0)
    right = (result.model(splits.test.images).argmax(1) == splits.test.labels).float().mean().item()
    assert found["accuracy"] == pytest.approx(100 * right, abs=1e-3) and found["removed"] == 50.0
    assert (found["parameters"], found["macs"]) == (266_610, 266_200)
    assert found["nonzeros"] == sum(int(p.count_nonzero()) for p in result.model.parameters())
    result.save(tmp_path / "network")
    assert found["bytes"] == (tmp_path / "network").stat().st_size
    assert found["latency_1"] > 0 and found["latency_64"] > 0
    assert networks.load(tmp_path / "network", models.build("lenet-300-100"))


def test_the_baseline_s_figures_tell_networks_apart_that_get_as_many_right(splits):
    model = models.pretrained("lenet-300-100", "mnist-5k")
    found = rows.baseline(model, splits)
    loss = torch.nn.functional.cross_entropy(model(splits.test.images), splits.test.labels).item()
    assert found["baseline_loss"] == pytest.approx(loss, rel=1e-5)
    model.fc3.bias.data += 1e-3 * torch.arange(10)
    again = rows.baseline(model, splits)
    assert again["baseline"] == found["baseline"] and again["baseline_loss"] != found["baseline_loss"]


# Fingerprints

CODE = """
'''A module.'''
from course_lib.papers import weight_pruning
from course_lib.papers.weight_pruning import sparsity_mask as mask

SHARE = 0.5
OTHER = 7

def budget(scale):
    return dict(epochs={"smoke": 1, "lesson": 3}[scale])

def first(setting, **_):
    '''What it does.'''
    return helper(setting["x"])  # a comment

def helper(x: int) -> float:
    return SHARE * x

def second(setting, **_):
    return mask(setting["w"], OTHER), weight_pruning.threshold_mask

KINDS = {"first": first, "second": second}

def run(setting, **rest):
    return KINDS[setting["kind"]](setting)
"""


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """Gives the fingerprint of a setting by a module of this code."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(f"fingerprinted_{tmp_path.name}_{i}".replace("-", "_") for i in range(100))

    def marked(code: str, kind: str = "first", scale: str = "smoke", **setting) -> str:
        # each version is a module of its own; the name is no part of the fingerprint's inputs that a change of code moves
        name = next(names)
        (tmp_path / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        try:
            found = fingerprints.fingerprint(name, dict(kind=kind, **setting), scale)
        finally:
            sys.modules.pop(name, None)
        return found

    return marked


def test_comments_docstrings_order_and_other_kinds_do_not_count(mark):
    same = CODE.replace("  # a comment", "").replace("'''What it does.'''", "'''Return something.'''").replace(": int", "")
    same = same.replace("SHARE = 0.5\nOTHER = 7", "OTHER = 8\nSHARE = 0.5")
    assert mark(same) == mark(CODE)
    assert len(mark(CODE)) == 12


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SHARE * x", "SHARE + x"),
        ("SHARE = 0.5", "SHARE = 0.6"),
        ("helper(setting", "2 * helper(setting"),
        ('"smoke": 1', '"smoke": 2'),
    ],
)
def test_other_code_another_constant_or_budget_is_another_fingerprint(mark, old, new):
    assert mark(CODE.replace(old, new)) != mark(CODE)


def test_another_setting_scale_or_kind_is_another_fingerprint(mark):
    marks = [mark(CODE), mark(CODE, x=1), mark(CODE, kind="second"), mark(CODE, scale="lesson")]
    assert len(set(marks)) == 4


def test_a_fingerprint_is_the_same_in_every_version_of_python(mark):
    """Rows come from other machines too; `ast.unparse` and `ast.dump` write a tree otherwise in another version."""
    code = """
def run(setting, /, *rest, seed: int = 0, **more) -> dict:
    name = f"{setting['name']!r:>10} 'quoted' {seed:.{len(rest)}f}"
    return {**more, name: [x for x in rest if x] or None, ...: u"text" if not seed else b""}
"""
    assert mark(code) == "1d7199f37530"


def test_the_papers_functions_count(mark, monkeypatch):
    before = mark(CODE, kind="second")
    definitions = fingerprints._definitions

    def changed(module):
        found = dict(definitions(module))
        if module == "course_lib.papers.weight_pruning":
            found["sparsity_mask"] = found["threshold_mask"]
        return found

    monkeypatch.setattr(fingerprints, "_definitions", changed)
    fingerprints._closure.cache_clear()
    assert mark(CODE, kind="second") != before
    assert mark(CODE) == mark(CODE)


def test_a_row_of_older_code_is_run_again_and_replaced(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(runner.fingerprints, "fingerprint", lambda *_: "new")
    old = ROW | dict(name="setting 00", fingerprint="old", experiment="toy_experiment", value=-1)
    row_files.add(path, old)
    row_files.add(path, old | dict(seed=1))
    row_files.add(path, old | dict(fingerprint="new", value=0))
    found = {(row["seed"], row["fingerprint"]): row["value"] for row in json.loads(path.read_text())}
    assert found == {(0, "new"): 0, (1, "old"): -1}


# The committed rows

FILES = {name: runner.RESULTS / f"{name.replace('-', '_')}.json" for name in runner.PAPERS}
MEASURED = [name for name, path in FILES.items() if path.exists()]
CHOOSING = ("lr", "centroid lr", "budget")  # kinds of rows by which learning rates and epochs are chosen, on fewer networks
ILLUSTRATING = ("residual",)  # kinds that no claim is judged by: one network, as the page says


@pytest.mark.parametrize("paper", MEASURED)
def test_every_committed_setting_has_its_networks(paper):
    found = rows.frame(json.loads(FILES[paper].read_text()))
    assert "lesson" in set(found.scale) and set(found.dataset) <= set(NETWORKS)
    for (_, name), group in found.groupby(["scale", "name"]):
        networks_of = group.groupby("seed")[["baseline", "baseline_loss"]].first()
        all_networks = NETWORKS[group.dataset.iloc[0]]
        fewer = group.seeds.iloc[0] if "seeds" in group else math.nan
        expected = all_networks if math.isnan(fewer) else int(fewer)
        assert list(networks_of.index) == list(range(expected)), name
        assert expected == all_networks or group.kind.iloc[0] in (*CHOOSING, *ILLUSTRATING), name
        assert not networks_of.duplicated().any(), f"{name}: two seeds start from the same network"


@pytest.mark.parametrize("paper", MEASURED)
def test_every_committed_row_is_complete(paper):
    for row in json.loads(FILES[paper].read_text()):
        rows.checked(row)


@pytest.mark.parametrize("paper", MEASURED)
def test_the_committed_rows_are_those_that_reproduce_would_make(paper):
    """All of lesson scale; of paper scale what has been run."""
    module, usual = importlib.import_module(f"course_lib.experiments.{paper.replace('-', '_')}"), NETWORKS["mnist"]
    wanted = {
        scale: {(setting["name"], seed) for setting in module.grid(scale) for seed in range(setting.get("seeds", usual))}
        for scale in ("lesson", "paper")
    }
    found = [(row["scale"], (row["name"], row["seed"])) for row in json.loads(FILES[paper].read_text())]
    assert len(set(found)) == len(found) and {scale for scale, _ in found} <= set(wanted)
    assert {key for scale, key in found if scale == "lesson"} == wanted["lesson"]
    assert {key for scale, key in found if scale == "paper"} <= wanted["paper"]
