"""The recipes of course_lib/README.md run as they stand, in a folder of their own."""

import re
import warnings

import pytest
import torch

from course_lib import methods
from course_lib.files import ROOT

PAGE = (ROOT / "course_lib" / "README.md").read_text(encoding="utf-8")
HEAD, *RECIPES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_is_a_short_recipe_for_each_method():
    named = [re.search(r'methods\.apply\(\s*"([\w-]+)"', recipe).group(1) for recipe in RECIPES]
    assert named == list(methods.METHODS)
    assert all(len(recipe.splitlines()) <= 10 for recipe in RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=list(methods.METHODS))
def test_a_recipe_runs_and_its_onnx_computes_the_same(recipe, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"dataset": torch.utils.data.TensorDataset(torch.randn(32, 3, 64, 64), torch.arange(32) % 10)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, and least squares of few samples
        exec(HEAD + recipe, names)
    (file,) = tmp_path.glob("*.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    exported = session.run(None, {session.get_inputs()[0].name: names["images"].numpy()})[0]
    with torch.no_grad():
        again, made = (model(names["images"]) for model in (names["again"], names["result"].model))
    assert torch.equal(again, made)
    torch.testing.assert_close(torch.from_numpy(exported), made, rtol=1e-3, atol=1e-3)
