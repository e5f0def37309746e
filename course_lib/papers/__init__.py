"""One module per paper; each opens with the paper, the sections it implements and the one formula."""

import pkgutil


def names() -> list[str]:
    """Return the papers' names as the command line spells them, without importing their modules."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
