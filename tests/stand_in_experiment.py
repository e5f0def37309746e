"""An experiment that asks for real data, for the test that a stand-in's row is refused."""

from course_lib import data


def grid(scale: str) -> list[dict]:
    return [dict(name="one")]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    return {"data set": data.load("mnist", scale=scale).name}
