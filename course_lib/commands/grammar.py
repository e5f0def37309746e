"""The arguments of each command of the command line."""

import argparse
from collections.abc import Callable
from pathlib import Path

from course_lib import scale

Add = Callable[[str], argparse.ArgumentParser]  # a command's name -> its parser


def beginning(number: str) -> str:
    """Return how the names of the notebooks that are meant begin: of a single digit, with a zero in front.

    >>> beginning("2"), beginning("02"), beginning("02_weight")
    ('02', '02', '02_weight')
    """
    return number.zfill(2) if number.isdigit() else number


def networks(add: Add) -> None:
    """The commands for a network of one's own."""
    sub = add("methods")
    sub.add_argument("names", nargs="*", metavar="METHOD", help="such as thinet: its settings, and what they mean")

    sub = add("prune")
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a state dict: safetensors, or of torch.save")
    sub.add_argument("--model", required=True, metavar="NAME", help="torchvision:resnet18, or a network of this course: lenet-5")
    sub.add_argument("--method", required=True, metavar="METHOD", help="`methods` lists them")
    sub.add_argument("--keep", metavar="K", help="of each layer's filters: a number, a share, or JSON by layer")
    sub.add_argument("--sparsity", metavar="S", help="share of single weights to prune, or JSON by layer")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of the method")
    sub.add_argument("--data", type=Path, metavar="FOLDER", help="images, in a folder for each class")
    sub.add_argument("--size", type=int, default=224, metavar="PIXELS", help="of the images; default: %(default)s")
    sub.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time; default: %(default)s")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE")

    sub = add("compress")
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a safetensors file; its zeros are the pruned weights")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE")
    sub.add_argument("--bits", default="conv=8,dense=5", help="of a code, one number or by kind or layer; default: %(default)s")
    sub.add_argument("--index-bits", default="conv=8,dense=5", help="of a gap, likewise; default: %(default)s")
    sub.add_argument(
        "--coder", default="huffman", choices=("fixed", "huffman", "ans", "context"), help="context takes --index-bits 0"
    )

    sub = add("decompress")
    sub.add_argument("file", type=Path, metavar="FILE")
    sub.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT")

    sub = add("inspect")
    sub.add_argument("file", type=Path, metavar="FILE")

    sub = add("score")
    sub.add_argument("file", type=Path, metavar="FILE", help="a compressed file: data/challenge/README.md has the rules")
    _add_seed(sub)


def course(add: Add) -> None:
    """The commands for the course itself."""
    sub = add("data")
    sub.add_argument("names", nargs="*", metavar="NAME", help="mnist, cifar10; default: both")
    sub.add_argument("--root", help="the data root; default: COURSE_DATA, else data/")

    sub = add("baselines")
    sub.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all that come with the course")
    sub.add_argument("--dataset", help="only those for this data set")
    sub.add_argument("--seed", type=int, default=0, help="which of the networks of a kind; default: %(default)s")
    _add_device(sub)

    sub = add("reproduce")
    sub.add_argument("paper", metavar="PAPER", help="such as weight-pruning; or all")
    sub.add_argument("--seeds", type=int, help="trained networks per setting; default: 5 on MNIST, 3 on CIFAR-10")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster; default: a local one sized to this machine")
    _add_device(sub)
    _add_scale(sub)

    add("results")

    add("book").add_argument("--out", type=Path, metavar="FOLDER", help="of the site; default: build/book")

    sub = add("work")
    sub.add_argument("only", nargs="?", type=beginning, metavar="N", help="a notebook's number; default: all")

    sub = add("check")
    sub.add_argument("only", type=beginning, metavar="N", help="a notebook's number")
    sub.add_argument("--seconds", type=float, default=60, metavar="S", help="for all tests; default: %(default)s")

    sub = add("run")
    _add_only(sub)
    sub.add_argument("--in-place", action="store_true", help="also replace the committed copies")
    _add_scale(sub)

    add("doctor")


def classroom(add: Add) -> None:
    """The commands for a class."""
    sub = add("release")
    _add_only(sub)
    sub.add_argument("--out", type=Path, metavar="DIR", help="default: build/")

    sub = add("similar")
    _add_submissions(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the table: similarity.csv")
    _add_only(sub)
    sub.add_argument("--threshold", type=float, default=0.5, metavar="S", help="share of the answers; default: %(default)s")

    sub = add("grade")
    _add_submissions(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="marks, pages, gradebook; a later call goes on there")
    _add_only(sub)
    sub.add_argument("--format", metavar="NAME", help="canvas or moodle: marks as it imports them, too")
    sub.add_argument("--roster", type=Path, metavar="FILE", help="the gradebook or worksheet that Canvas or Moodle exports")
    sub.add_argument("--workers", type=int, metavar="N", help="submissions at a time; default: one a core")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, instead of this machine's processes")
    sub.add_argument("--no-sandbox", action="store_true", help="run student code with all your rights")
    sub.add_argument("--all-cells", action="store_true", help="run the lesson too, not only what the answers need")
    sub.add_argument("--cell-seconds", type=float, default=60, metavar="S", help="for a cell; default: %(default)s")
    sub.add_argument("--seconds", type=float, default=600, metavar="S", help="for a submission; default: %(default)s")
    sub.add_argument("--memory", type=int, default=3072, metavar="MiB", help="for a submission; default: %(default)s")
    sub.add_argument("--scale", choices=scale.SCALES, default="smoke", help="default: %(default)s")

    sub = add("challenge")
    sub.add_argument("--submissions", type=Path, required=True, metavar="DIR", help="a folder, or a zip file")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="for leaderboard.csv and leaderboard.html")
    _add_seed(sub)
    sub.add_argument("--no-sandbox", action="store_true", help="decode without bubblewrap; limits hold all the same")


def _add_seed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the warped digits; default: %(default)s, for practice")


def _add_submissions(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--submissions", type=Path, required=True, metavar="DIR", help="a folder, or a zip file")


def _add_only(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--only", type=beginning, metavar="02", help="the notebook whose name begins so; 2 is 02")


def _add_device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_scale(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scale", choices=scale.SCALES, help="default: COURSE_SCALE, else lesson")
