"""Networks as ONNX files, in float32 and in int8, and ONNX Runtime, which computes them on the CPU wherever torch computes."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

FLOAT, DYNAMIC, STATIC = "ONNX, float32", "ONNX int8, dynamic", "ONNX int8, static"
FILES = {FLOAT: "float.onnx", DYNAMIC: "dynamic.onnx", STATIC: "static.onnx"}
CALIBRATION_BATCH = 50


class OnnxNetwork(nn.Module):
    """The network of an ONNX file, with as many threads as torch has; `evaluate` and `cost.measure` take it as any other."""

    def __init__(self, path: Path):
        super().__init__()
        runtime = _installed()[0]
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3  # 3: errors only
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (N, classes) of images (N, C, height, width), on their device."""
        [scores] = self.session.run(None, {self.input: images.cpu().numpy()})
        return torch.from_numpy(scores).to(images.device)


def write(model: nn.Module, folder: Path, calibration: Tensor) -> dict[str, Path]:
    """Write a network as ONNX files: float32, and int8 by ONNX Runtime's dynamic and static quantization; return their paths.

    All settings are ONNX Runtime's defaults, but for a scale per filter in the static form, as its manual advises where accuracy
    is lost. Dynamic quantization measures the range of activations anew in each call, static quantization once, beforehand.

    Args:
        model: a trained network; it is left as it was.
        folder: where the files are written, by the names `FILES`.
        calibration: training images (N, C, height, width), on which the ranges of activations are measured.

    Raises:
        ImportError: ONNX Runtime or the exporter is not installed; the message says how to get them.
    """
    _, quantization, prepare = _installed()
    paths, prepared = {form: folder / name for form, name in FILES.items()}, folder / "prepared.onnx"
    images = calibration.cpu()
    _export(model, images[:2], paths[FLOAT])
    prepare(str(paths[FLOAT]), str(prepared))  # folds batch norms into the convolutions before them
    quantization.quantize_dynamic(str(prepared), str(paths[DYNAMIC]))
    name, batches = OnnxNetwork(prepared).input, images.split(CALIBRATION_BATCH)

    class Batches(quantization.CalibrationDataReader):
        waiting = iter([{name: batch.numpy()} for batch in batches])

        def get_next(self) -> dict | None:
            return next(self.waiting, None)

    quantization.quantize_static(str(prepared), str(paths[STATIC]), Batches(), per_channel=True)
    return paths


def versions() -> dict[str, str]:
    """Return the versions of ONNX Runtime and of onnx. Raises ImportError as `write`."""
    import onnx

    return dict(onnxruntime=_installed()[0].__version__, onnx=onnx.__version__)


def _export(model: nn.Module, images: Tensor, path: Path) -> None:
    on_cpu = copy.deepcopy(model).cpu().eval()
    any_number = ({0: torch.export.Dim("images")},)
    torch.onnx.export(
        on_cpu, (images,), str(path), dynamo=True, dynamic_shapes=any_number, external_data=False, verbose=False
    )  # fmt: skip


def _installed() -> tuple:
    """ONNX Runtime, its quantization, and the preparation for that."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, the exporter needs it
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as reason:
        advice = "`pip install -e '.[test]'` in the course's folder brings onnxruntime and onnxscript"
        raise ImportError(f"networks in int8 need ONNX Runtime, which is not installed ({reason}); {advice}") from reason
    return onnxruntime, quantization, quant_pre_process
