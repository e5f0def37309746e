"""Codes the course's networks with nncodec, with zstd, and with the course's shared weights; records sizes and accuracies.

Nothing is trained after the coding. nncodec is the reference software of the ISO/IEC 15938-17 coder (MPEG NNC); neither it nor
zstd is part of the course. nncodec needs an older NumPy, so the two live in an environment of their own, which holds
`nncodec==2.1.3 "numpy<2" safetensors zstandard`:

    python3.11 -m venv /tmp/coders && /tmp/coders/bin/pip install nncodec==2.1.3 "numpy<2" safetensors zstandard
    python tests/benchmarks/outside_coders.py --python /tmp/coders/bin/python [--integers]

The course's interpreter writes the networks as safetensors, the other one codes and decodes them, and the course's measures what
was decoded. Narrowed and pruned networks are coded where `python -m course_lib reproduce combined` has left them in build/.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# By data set, coarser from left to right until more than a relevant difference is lost: steps of nncodec, and bits of a shared
# weight in the course's files
QPS = {"mnist": (-28, -24, -20, -16), "cifar10": (-32, -28, -24, -20)}
BITS = {"mnist": (5, 4, 3, 2), "cifar10": (8, 6, 5, 4)}
STACK = (("whole", 1), ("APoZ", 4))  # of the stack's starts
NARROWED = {"lenet-5-relu": ("L1", 4), "vgg-small": ("L1", 2), "resnet-20": ("L1", 2)}
RATES = ("30x", "60x")  # of pruning in the stack


def code(folder: Path) -> None:
    """Code each network of a folder, in the other environment, and write sizes and decoded networks beside it."""
    from importlib.metadata import version

    import numpy as np
    import zstandard
    from nncodec.nn import decode, encode
    from safetensors.numpy import load_file, save_file

    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        numbers = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items() if t.dtype == np.float32}
        sizes = {"zstd": len(zstandard.ZstdCompressor(level=19).compress(path.read_bytes()))}
        for qp in sorted({qp for qps in QPS.values() for qp in qps}):
            content = encode(numbers, args={"qp": qp, "use_dq": True, "results": str(folder), "verbose": False})
            sizes[str(qp)] = len(content)
            decoded = {name: np.asarray(t, np.float32).reshape(numbers[name].shape) for name, t in decode(content).items()}
            assert set(decoded) == set(numbers), "what is not decoded would be measured as it was"
            save_file(tensors | decoded, folder / f"{path.stem}.qp{qp}.decoded")
        (folder / f"{path.stem}.json").write_text(json.dumps(sizes))
    versions = {"nncodec": version("nncodec"), "zstd": version("zstandard"), "numpy": np.__version__}
    (folder / "versions").write_text(json.dumps(versions))


def code_integers(folder: Path) -> None:
    """Code the integers of each file of a folder without loss, in the other environment, and write the sizes beside it."""
    from importlib.metadata import version

    import numpy as np
    import zstandard
    from nncodec.nn import decode, encode
    from safetensors.numpy import load_file

    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        numbers = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
        how = {"qp": 0, "nonweight_qp": 0, "use_dq": False, "results": str(folder), "verbose": False}  # steps of 1, no trellis
        content = encode(numbers, args=how)
        decoded = decode(content)
        assert all(np.array_equal(np.asarray(decoded[name]).reshape(t.shape), t) for name, t in numbers.items())
        stream = b"".join(t.astype(np.int8).tobytes() for t in tensors.values())
        sizes = dict(nncodec=len(content), zstd=len(zstandard.ZstdCompressor(level=19).compress(stream)))
        (folder / f"{path.stem}.json").write_text(json.dumps(sizes))
    (folder / "versions").write_text(json.dumps({"nncodec": version("nncodec"), "zstd": version("zstandard")}))


def integers(python: str) -> dict:
    """Return the record of the course's own files of the challenge: bytes of the same integers, by file and coder."""
    import torch
    from safetensors.torch import save_file

    from course_lib import storage
    from course_lib.challenge.places import FOLDER

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), sorted((FOLDER / "course").glob("*.cnet"))
        for path in files:
            file = storage.load(path)
            levels = {key: t.codes.int().view(t.shape) - int((t.codebook == 0).nonzero()[0]) for key, t in file.tensors.items()}
            save_file({key: t.to(torch.int16).contiguous() for key, t in levels.items()}, folder / f"{path.stem}.safetensors")
        subprocess.run([python, __file__, "--code-integers", name], check=True)
        for path in files:
            sizes = json.loads((folder / f"{path.stem}.json").read_text())
            rows += [dict(file=path.name, coder=coder, bytes=size) for coder, size in sizes.items()]
        return dict(versions=json.loads((folder / "versions").read_text()), rows=rows)


def networks(seeds: int | None):
    """Yield the networks to code: what they are called in the record, and the network."""
    from course_lib import models
    from course_lib.experiments import combined, kept_networks
    from course_lib.storage.networks import load

    for network, about in combined.NETWORKS.items():
        dataset = "mnist" if about["counted"] == "bytes" else "cifar10"
        for seed in range(about["seeds"] if seeds is None else min(seeds, about["seeds"])):
            at = dict(network=network, dataset=dataset, seed=seed)
            yield at | dict(start="whole"), models.pretrained(network, dataset, seed)
            kept = [(*NARROWED[network], "start")]
            if network == combined.LENET:
                kept += [(*start, rate) for start in STACK for rate in RATES]
            for method, rate, stage in kept:
                path = kept_networks.path(network, dataset, method, rate, seed, stage)
                if path.exists():
                    before = "whole" if method == "whole" else f"{method}, {rate}x"
                    start = before if stage == "start" else f"{before}, 1 of {stage.removesuffix('x')} weights"
                    yield at | dict(start=start), load(path, models.build(network))


def accuracies(model, splits) -> dict[str, float]:
    """Return the test and the validation accuracy of a network, in percent."""
    from course_lib.experiments.rows import percent

    return dict(accuracy=percent(model, splits.test), validation=percent(model, splits.validation))


def recorded(python: str, seeds: int | None) -> dict:
    """Return the record: versions, and a row per network, coder and setting."""
    from safetensors.torch import load_file, save_file

    from course_lib import data, storage
    from course_lib.experiments.stack import smallest_file
    from course_lib.papers import deep_compression

    rows, held, splits = [], {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (about, model) in enumerate(networks(seeds)):
            save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / f"{number:03}.safetensors")
            held[f"{number:03}"] = about, model
        subprocess.run([python, __file__, "--code", name], check=True)
        for stem, (about, model) in held.items():
            if about["dataset"] not in splits:
                splits[about["dataset"]] = data.load(about["dataset"], scale="lesson")
            sizes = json.loads((folder / f"{stem}.json").read_text())
            before = accuracies(model, splits[about["dataset"]])
            about = about | {f"{part}_before": value for part, value in before.items()}
            rows.append(about | dict(coder="zstd", setting="level 19", bytes=sizes["zstd"]) | before)
            for bits in BITS[about["dataset"]]:
                widths = dict(conv=bits, dense=bits, bias=bits)
                quantized = deep_compression.quantize(model, bits=widths)
                size = len(storage.encode(smallest_file(quantized, widths)[0]))
                found = accuracies(quantized, splits[about["dataset"]])
                rows.append(about | dict(coder="course", setting=f"{bits} bits", bytes=size) | found)
            for qp in QPS[about["dataset"]]:
                model.load_state_dict(load_file(folder / f"{stem}.qp{qp}.decoded"))
                found = accuracies(model, splits[about["dataset"]])
                rows.append(about | dict(coder="nncodec", setting=f"qp {qp}", bytes=sizes[str(qp)]) | found)
        return dict(versions=json.loads((folder / "versions").read_text()), rows=rows)


def main() -> None:
    """Record, or code what another process has written."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--python", help="interpreter of the environment with nncodec")
    arguments.add_argument("--seeds", type=int, help="networks of each kind; default all")
    arguments.add_argument("--code", type=Path, help="a folder of networks to code; the script calls itself with it")
    arguments.add_argument("--integers", action="store_true", help="code the integers of the challenge's files instead")
    arguments.add_argument("--code-integers", type=Path, help="a folder of them; the script calls itself with it")
    found = arguments.parse_args()
    if found.code_integers:
        code_integers(found.code_integers)
        return
    if found.code:
        code(found.code)
        return
    if not found.python:
        arguments.error("--python is missing: the interpreter of the environment that holds nncodec")
    import datetime

    from course_lib.challenge.places import FOLDER
    from course_lib.experiments.runner import RESULTS

    more = " --integers" if found.integers else f" --seeds {found.seeds}" if found.seeds else ""
    about = dict(
        date=datetime.date.today().isoformat(), command=f"python tests/benchmarks/outside_coders.py --python PYTHON{more}"
    )
    rows = integers(found.python) if found.integers else recorded(found.python, found.seeds)
    path = FOLDER / "outside_integers.json" if found.integers else RESULTS / "outside" / "coders.json"
    path.write_text(json.dumps(about | rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
