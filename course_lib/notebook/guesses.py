"""What a reader guessed, beside what was measured."""

from typing import Any


def reveal(what: str, guess: Any, measured: str) -> None:
    """Print a guess beside what was measured; `...` is no guess yet."""
    yours = "you have not guessed yet" if guess is ... else f"you guessed {guess}"
    print(f"{what}: {yours}; measured: {measured}")
