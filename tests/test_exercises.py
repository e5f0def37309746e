"""Every notebook's exercises: model answers pass, empty ones fail, plausible wrong ones lose points, odd right ones do not."""

import importlib

import pytest

from tests import exercises

NOTEBOOKS = {path.stem: path.stem.partition("_")[2] for path in sorted(exercises.NOTEBOOKS.glob("*.ipynb"))}
ANSWERS = {notebook: importlib.import_module(f"tests.answers.{word}") for notebook, word in NOTEBOOKS.items()}


def autograded() -> list[tuple[str, int]]:
    ids = {notebook: exercises.graded_cells(notebook) for notebook in NOTEBOOKS}
    return [
        (n, i) for n in NOTEBOOKS for i in range(1, 20) if f"answer-{i}" in ids[n] and ids[n][f"answer-{i}"].cell_type == "code"
    ]


def answers(kind: str) -> list:
    return [pytest.param(n, *given, id=f"{n}-{name}") for n in NOTEBOOKS for name, given in getattr(ANSWERS[n], kind).items()]


@pytest.mark.parametrize(("notebook", "number"), autograded())
def test_the_model_answer_gets_all_points(notebook, number):
    won, possible = exercises.points(notebook, number, exercises.reference(notebook, number))
    assert won == possible > 0


@pytest.mark.parametrize(("notebook", "number"), autograded())
def test_an_empty_answer_gets_none(notebook, number):
    assert exercises.points(notebook, number, "")[0] == 0
    assert exercises.loses_points(notebook, number, exercises.released(notebook, number))


@pytest.mark.parametrize(("notebook", "number", "answer"), answers("RIGHT"))
def test_an_unusual_right_answer_loses_nothing(notebook, number, answer):
    won, possible = exercises.points(notebook, number, answer)
    assert won == possible


@pytest.mark.parametrize(("notebook", "number", "answer"), answers("WRONG"))
def test_a_plausible_wrong_answer_loses_points(notebook, number, answer):
    assert exercises.loses_points(notebook, number, answer)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_twenty_points_three_autograded_tasks_and_one_open_question(notebook):
    cells = [cell for cell in exercises.graded_cells(notebook).values() if cell.metadata.nbgrader.grade]
    assert sum(cell.metadata.nbgrader.points for cell in cells) == 20
    by_hand = [cell for cell in cells if cell.metadata.nbgrader.solution]
    assert len(by_hand) == 1 and by_hand[0].cell_type == "markdown"
    numbers = [number for name, number in autograded() if name == notebook]
    assert len(numbers) >= 3
    for number in numbers:  # at least two wrong answers and an unusual right one each
        given = [answer[0] for kind in ("WRONG", "RIGHT") for answer in getattr(ANSWERS[notebook], kind).values()]
        assert given.count(number) >= 3
