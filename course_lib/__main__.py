"""The command line: `python -m course_lib COMMAND`; `--help` lists the commands.

What a command needs is imported when it is called: `--help` answers at once, and `doctor` works where packages are missing.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from course_lib import scale

COMMANDS = (
    *("data", "methods", "prune", "compress", "decompress", "inspect"),
    *("baselines", "reproduce", "results", "run", "release", "grade", "doctor"),
)
MISTAKES = (ValueError, OSError, RuntimeError, ModuleNotFoundError)  # told in a line; anything else is a bug and shows where


def data(arguments: argparse.Namespace) -> int:
    """Fetches data sets."""
    from course_lib.data.download import command

    return command(arguments.names, arguments.root)


def baselines(arguments: argparse.Namespace) -> int:
    """Trains the networks that the notebooks start from, and writes them to data/checkpoints."""
    from course_lib.cluster import resolve_device
    from course_lib.models import COMMITTED, RECIPES, train

    networks, datasets = ({recipe[part]: None for recipe in RECIPES} for part in (0, 1))  # dicts keep the order
    committed = {network: None for network, _ in COMMITTED}
    for network in arguments.networks:
        if network not in networks:
            raise ValueError(f"network is {network!r}; there are recipes for {', '.join(networks)}")
    if arguments.dataset not in (None, *datasets):
        raise ValueError(f"--dataset is {arguments.dataset!r}; there are recipes for {', '.join(datasets)}")
    chosen = [
        (network, dataset)
        for network, dataset in RECIPES
        if network in (arguments.networks or committed) and arguments.dataset in (None, dataset)
    ]
    if not chosen:
        pairs = ", ".join(f"{network} on {dataset}" for network, dataset in RECIPES)
        raise ValueError(f"no recipe for {' or '.join(arguments.networks)} on {arguments.dataset}; there are: {pairs}")
    for network, dataset in chosen:
        facts = train(network, dataset, seed=arguments.seed, device=resolve_device(arguments.device))
        print(f"{network} on {dataset}: accuracy {facts['accuracy']:.2%} after {facts['seconds']} s")
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    """Runs a paper's experiments and prints 'paper / here'."""
    from course_lib.experiments.runner import command

    return command(
        arguments.paper,
        scale=arguments.scale or scale.name(),
        seeds=arguments.seeds,
        device=arguments.device,
        scheduler=arguments.scheduler,
    )


def methods(arguments: argparse.Namespace) -> int:
    """Lists the papers' methods; of those named, their settings too."""
    from course_lib.commands.prune import listing

    print(listing(arguments.names))
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Compresses a network of yours by a paper's method, and prints what it cost before and after."""
    from course_lib.commands.prune import command

    settings = [f"{name}={value}" for name in ("keep", "sparsity") if (value := getattr(arguments, name)) is not None]
    command(
        arguments.checkpoint,
        model=arguments.model,
        method=arguments.method,
        settings=settings + arguments.set,
        data=arguments.data,
        size=arguments.size,
        batch_size=arguments.batch_size,
        out=arguments.out,
    )
    return 0


def compress(arguments: argparse.Namespace) -> int:
    """Compresses a pruned checkpoint: quantizes what survives, codes it, writes one small file."""
    from course_lib.commands import convert

    convert.compress(arguments.checkpoint, arguments.out, arguments.bits, arguments.index_bits, arguments.coder)
    return 0


def decompress(arguments: argparse.Namespace) -> int:
    """Turns a compressed file back into a checkpoint."""
    from course_lib.commands import convert

    convert.decompress(arguments.file, arguments.out)
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Prints what each tensor takes in a compressed file: bits, gaps, entropy."""
    from course_lib.commands import convert

    convert.inspect(arguments.file)
    return 0


def results(arguments: argparse.Namespace) -> int:
    """Brings README's tables and pictures in step with the recorded rows and the notebooks."""
    from course_lib.commands.front_page import command

    return command()


def run(arguments: argparse.Namespace) -> int:
    """Executes the notebooks headless."""
    from course_lib.commands.execute import command

    if arguments.scale:
        os.environ["COURSE_SCALE"] = arguments.scale  # the kernels inherit it
    print(f"scale {scale.name()}")
    return min(1, command(arguments.only, in_place=arguments.in_place))


def release(arguments: argparse.Namespace) -> int:
    """Writes the student copies of the notebooks: without solutions, hidden tests and outputs."""
    from course_lib.classroom.release import BUILD, command

    return command(arguments.only, arguments.out or BUILD)


def grade(arguments: argparse.Namespace) -> int:
    """Grades a folder or zip file of submissions, each in a sandbox."""
    from course_lib.classroom.grade import Settings, command
    from course_lib.classroom.sandbox import Limits

    settings = Settings(
        limits=Limits(cell_seconds=arguments.cell_seconds, seconds=arguments.seconds, memory=arguments.memory << 20),
        sandboxed=not arguments.no_sandbox,
        everything=arguments.all_cells,
        scale=arguments.scale,
    )
    return command(
        arguments.submissions,
        arguments.out,
        only=arguments.only,
        workers=arguments.workers,
        scheduler=arguments.scheduler,
        settings=settings,
    )


def doctor(arguments: argparse.Namespace) -> int:
    """Says what is installed and at hand, and how to mend what is not."""
    from course_lib.commands.doctor import command

    return command()


Add = Callable[[Callable[[argparse.Namespace], int]], argparse.ArgumentParser]  # a command's function -> its parser


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line; `command` in what it parses is the function to call."""
    top = argparse.ArgumentParser(prog="python -m course_lib")
    commands = top.add_subparsers(required=True, metavar="{" + ",".join(COMMANDS) + "}")

    def add(command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    for group in (_networks, _course, _classroom):
        group(add)
    return top


def _networks(add: Add) -> None:
    """The commands for a network of one's own."""
    sub = add(methods)
    sub.add_argument("names", nargs="*", metavar="METHOD", help="such as thinet: its settings, and what they mean")

    sub = add(prune)
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

    sub = add(compress)
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a safetensors file; its zeros are the pruned weights")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE")
    sub.add_argument("--bits", default="conv=8,dense=5", help="of a code, one number or by kind or layer; default: %(default)s")
    sub.add_argument("--index-bits", default="conv=8,dense=5", help="of a gap, likewise; default: %(default)s")
    sub.add_argument("--coder", default="huffman", choices=("fixed", "huffman", "ans"))

    sub = add(decompress)
    sub.add_argument("file", type=Path, metavar="FILE")
    sub.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT")

    sub = add(inspect)
    sub.add_argument("file", type=Path, metavar="FILE")


def _course(add: Add) -> None:
    """The commands for the course itself."""
    sub = add(data)
    sub.add_argument("names", nargs="*", metavar="NAME", help="mnist, cifar10; default: both")
    sub.add_argument("--root", help="the data root; default: COURSE_DATA, else data/")

    sub = add(baselines)
    sub.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all that come with the course")
    sub.add_argument("--dataset", help="only those for this data set")
    sub.add_argument("--seed", type=int, default=0, help="which of the networks of a kind; default: %(default)s")
    _add_device(sub)

    sub = add(reproduce)
    sub.add_argument("paper", metavar="PAPER", help="such as weight-pruning; or all")
    sub.add_argument("--seeds", type=int, help="trained networks per setting; default: 5 on MNIST, 3 on CIFAR-10")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster; default: a local one sized to this machine")
    _add_device(sub)
    _add_scale(sub)

    add(results)

    sub = add(run)
    sub.add_argument("--only", metavar="02", help="the notebook whose name begins so")
    sub.add_argument("--in-place", action="store_true", help="also replace the committed copies")
    _add_scale(sub)

    add(doctor)


def _classroom(add: Add) -> None:
    """The commands for a class."""
    sub = add(release)
    sub.add_argument("--only", metavar="02", help="the notebook whose name begins so")
    sub.add_argument("--out", type=Path, metavar="DIR", help="default: build/")

    sub = add(grade)
    sub.add_argument("--submissions", type=Path, required=True, metavar="DIR", help="a folder, or a zip file")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="marks, pages, gradebook; a later call goes on there")
    sub.add_argument("--only", metavar="02", help="the notebook whose name begins so")
    sub.add_argument("--workers", type=int, metavar="N", help="submissions at a time; default: one a core")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, instead of this machine's processes")
    sub.add_argument("--no-sandbox", action="store_true", help="run student code with all your rights")
    sub.add_argument("--all-cells", action="store_true", help="run the lesson too, not only what the answers need")
    sub.add_argument("--cell-seconds", type=float, default=60, metavar="S", help="for a cell; default: %(default)s")
    sub.add_argument("--seconds", type=float, default=600, metavar="S", help="for a submission; default: %(default)s")
    sub.add_argument("--memory", type=int, default=3072, metavar="MiB", help="for a submission; default: %(default)s")
    sub.add_argument("--scale", choices=scale.SCALES, default="smoke", help="default: %(default)s")


def _add_device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_scale(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scale", choices=scale.SCALES, help="default: COURSE_SCALE, else lesson")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; gives the exit status: 0 well, 1 the command failed, 2 a mistake of the caller, 130 interrupted."""
    parsed = parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except MISTAKES as mistake:
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        if isinstance(mistake, ModuleNotFoundError):
            print("`make lab`, or `pip install -e .[test]`, installs what the course needs", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
