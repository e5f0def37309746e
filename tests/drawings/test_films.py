"""A film shows one frame at a time, and leaves all of them where no kernel answers."""

import matplotlib.pyplot as plt
import pytest

from course_lib.desk import stills
from course_lib.drawings import shapes
from course_lib.drawings.films import Film

FRAMES = [(f"frame {name}", lambda ax, name=name: shapes.write(ax, (10, 1), name)) for name in "abc"]


@pytest.fixture
def film() -> Film:
    film = Film(FRAMES, 2, "Three letters, one after the other.")
    assert not plt.get_fignums()  # nothing is left open
    return film


def test_each_step_has_a_frame_with_a_text_of_its_own(film):
    texts = [page.value.partition('alt="')[2].partition('"')[0] for page in film.frames.children]
    assert texts == [f"Step {step} of 3: frame {name}" for step, name in enumerate("abc", start=1)]
    assert (film.step.min, film.step.max) == (0, 2)


def test_without_a_kernel_all_frames_are_left(film):
    data, metadata = film._repr_mimebundle_()
    assert stills.WIDGET in data and metadata["image/png"]["alt"] == data["text/plain"] == "Three letters, one after the other."
    cell = dict(cell_type="code", outputs=[dict(output_type="display_data", data=dict(data), metadata=metadata)])
    kept = stills.without_widgets(dict(metadata={}, cells=[cell]))["cells"][0]["outputs"]
    assert stills.WIDGET not in kept[0]["data"] and kept[0]["data"]["text/html"].startswith('<img alt="Three letters')


def test_the_strip_is_as_high_as_its_frames():
    one, three = (shapes.film_strip(FRAMES[:count], 2).get_size_inches()[1] for count in (1, 3))
    assert three == pytest.approx(3 * one)
    plt.close("all")
