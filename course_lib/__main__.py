"""The command line: `python -m course_lib COMMAND`; `--help` lists the commands.

What a command needs is imported when it is called: `--help` answers at once, and `doctor` works where packages are missing.
"""

import argparse
import os
import sys

from course_lib import scale
from course_lib.commands import asked, grammar

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
    if arguments.paper != "all":
        asked.names("paper", [arguments.paper.replace("_", "-")])
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
    asked.names("method", arguments.names)
    from course_lib.commands.prune import listing

    print(listing(arguments.names))
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Compresses a network of yours by a paper's method, and prints what it cost before and after."""
    asked.names("method", [arguments.method])
    asked.file("checkpoint", arguments.checkpoint)
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
    asked.file("checkpoint", arguments.checkpoint)
    from course_lib.commands import convert

    convert.compress(arguments.checkpoint, arguments.out, arguments.bits, arguments.index_bits, arguments.coder)
    return 0


def decompress(arguments: argparse.Namespace) -> int:
    """Turns a compressed file back into a checkpoint."""
    asked.file("file", arguments.file)
    from course_lib.commands import convert

    convert.decompress(arguments.file, arguments.out)
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Prints what each tensor takes in a compressed file: bits, gaps, entropy."""
    asked.file("file", arguments.file)
    from course_lib.commands.inspecting import command

    command(arguments.file)
    return 0


def score(arguments: argparse.Namespace) -> int:
    """Measures a compressed file that reads digits, and places it among the course's own and published ones."""
    asked.file("file", arguments.file)
    from course_lib.commands.challenge import score as command

    command(arguments.file, arguments.seed)
    return 0


def results(arguments: argparse.Namespace) -> int:
    """Brings README's tables and pictures in step with the recorded rows and the notebooks."""
    from course_lib.commands.front_page import command

    return command()


def work(arguments: argparse.Namespace) -> int:
    """Keeps your own copies of the notebooks, in work/, up to date."""
    asked.notebook(arguments.only)
    from course_lib.commands.reader import work as command

    return command(arguments.only)


def check(arguments: argparse.Namespace) -> int:
    """Checks your answers in your own copy of a notebook."""
    asked.notebook(arguments.only)
    from course_lib.commands.reader import check as command

    return command(arguments.only, arguments.seconds)


def run(arguments: argparse.Namespace) -> int:
    """Executes the notebooks headless."""
    asked.notebook(arguments.only)
    from course_lib.commands.execute import command

    if arguments.scale:
        os.environ["COURSE_SCALE"] = arguments.scale  # the kernels inherit it
    print(f"scale {scale.name()}")
    return min(1, command(arguments.only, in_place=arguments.in_place))


def book(arguments: argparse.Namespace) -> int:
    """Builds the course as a website, with panels that answer without a kernel."""
    from course_lib.book.site import SITE, command

    return command(arguments.out or SITE)


def release(arguments: argparse.Namespace) -> int:
    """Writes the student copies of the notebooks: without solutions, hidden tests and outputs."""
    asked.notebook(arguments.only)
    from course_lib.classroom.release import BUILD, command

    return command(arguments.only, arguments.out or BUILD)


def similar(arguments: argparse.Namespace) -> int:
    """Lists pairs of submissions whose answers are alike; runs nothing of them."""
    asked.notebook(arguments.only)
    asked.submissions(arguments.submissions)
    from course_lib.classroom.similarity import command

    return command(arguments.submissions, arguments.out, only=arguments.only, threshold=arguments.threshold)


def grade(arguments: argparse.Namespace) -> int:
    """Grades a folder or zip file of submissions, each in a sandbox."""
    asked.notebook(arguments.only)
    asked.submissions(arguments.submissions)
    roster = asked.roster(arguments.format, arguments.roster)
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
        roster=roster,
    )


def challenge(arguments: argparse.Namespace) -> int:
    """Scores a class's smallest files that read digits, and writes a leaderboard."""
    asked.submissions(arguments.submissions)
    from course_lib.commands.challenge import challenge as command

    command(arguments.submissions, arguments.out, seed=arguments.seed, sandboxed=not arguments.no_sandbox)
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Says what is installed and at hand, and how to mend what is not."""
    from course_lib.commands.doctor import command

    return command()


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line; `command` in what it parses is the function to call."""
    top = argparse.ArgumentParser(prog="python -m course_lib")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str) -> argparse.ArgumentParser:
        command = globals()[name]
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    for group in (grammar.networks, grammar.course, grammar.classroom):
        group(add)
    return top


def _said(mistake: Exception) -> str:
    """A mistake in a line, without the number that the system gives it."""
    text = str(mistake)
    if isinstance(mistake, OSError) and mistake.strerror:
        text = f"{mistake.filename}: {mistake.strerror}" if mistake.filename is not None else mistake.strerror
    return " ".join(text.split())


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; gives the exit status: 0 well, 1 the command failed, 2 a mistake of the caller, 130 interrupted."""
    parsed = parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except MISTAKES as mistake:
        print(f"error: {_said(mistake)}", file=sys.stderr)
        if isinstance(mistake, ModuleNotFoundError):
            print("`make lab`, or `pip install -e .[test]`, installs what the course needs", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
