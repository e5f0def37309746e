"""Pictures taken apart: what many of one size have in common is stored once."""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable
from xml.etree import ElementTree

from PIL import Image

NAMESPACE = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
SVG, XLINK = (name[1 : name.index("}")] for name in (NAMESPACE, HREF))
for prefix, address in (("", SVG), ("xlink", XLINK)):
    ElementTree.register_namespace(prefix, address)
COLOURS = 32  # of what is drawn as pixels
PIXELS = re.compile(r'(data:[^"]*)')
# Where everything else is cut: before a tag, an attribute, a new line of a path, a word
CUTS = re.compile(r'(?=<)|(?= (?!y)[\w:-]+=")|(?<=")(?=/?>)|(?=M-?\d)|(?<=[a-z,;:%] )')
POINT = re.compile(r"([ML]) (-?[\d.]+) (-?[\d.]+)\s*")


class Parts:
    """Parts of SVG pictures, and texts, by number."""

    def __init__(self):
        self.numbers: dict[str, int] = {}
        self.shared: dict[str, str] = {}  # styles, markers and clips, by their names
        self.head = ""

    def number(self, text: str) -> int:
        """Return the number of a part or text."""
        return self.numbers.setdefault(text, len(self.numbers))

    def split(self, drawn: str) -> dict[str, list[ElementTree.Element]]:
        """Return what lies in each of the axes of a figure, and beside them, by name; markers and clips are put aside."""
        root = ElementTree.fromstring(drawn)
        size = "".join(f' {name}="{root.get(name)}"' for name in ("width", "height", "viewBox"))
        self.head = f'<svg xmlns="{SVG}" xmlns:xlink="{XLINK}"{size}>'
        self.shared |= {style.text: serialized(style) for style in root.iter(f"{NAMESPACE}style")}
        for parent in list(root.iter()):
            for defined in parent.findall(f"{NAMESPACE}defs"):
                self.shared |= {one.get("id"): serialized(one) for one in defined if one.get("id")}
                parent.remove(defined)
        figure = root.find(f"{NAMESPACE}g")
        named = {child.get("id"): list(child) if child.get("id").startswith("axes") else [child] for child in figure}
        for group in figure.iter(f"{NAMESPACE}g"):
            group.attrib.pop("id", None)
        return named

    def packed(self) -> dict:
        """Return all of it, each part as the numbers of its pieces, which are stored once."""
        parts = [cut(part) for part in self.numbers]
        often = Counter(piece for part in parts for piece in part).most_common()  # these have numbers of few digits
        pieces = {piece: number for number, (piece, _) in enumerate(often)}
        parts = [[pieces[piece] for piece in part] for part in parts]
        head = f"{self.head}<defs>{''.join(self.shared.values())}</defs>"
        return dict(head=head, pieces=list(pieces), parts=parts)


def cut(part: str) -> list[str]:
    """Return the pieces of a part, which others may share."""
    found = PIXELS.split(part)
    return [piece for place, text in enumerate(found) for piece in ([text] if place % 2 else CUTS.split(text)) if piece]


def leaves(elements: Iterable[ElementTree.Element]) -> list[str]:
    """Return what is drawn in some elements, one by one: groups without groups in them."""
    found = []
    for element in elements:
        inner = element.findall(f"{NAMESPACE}g")
        found += leaves(inner) if inner else [serialized(element)]
    return found


def serialized(element: ElementTree.Element) -> str:
    """Return an element as short text: paths and places to a tenth of a point, pixels with few colours."""
    for one in element.iter():
        if path := one.get("d"):
            one.set("d", shorter(path))
        if (pixels := one.get(HREF, "")).startswith("data:image/png"):
            small, opacity = fewer_colours(pixels.partition(",")[2])
            one.set(HREF, f"data:image/png;base64,{small}")
            one.set("opacity", f"{opacity:.2g}")
        for name in ("x", "y"):
            if re.fullmatch(r"-?\d+\.\d+", one.get(name, "")):
                one.set(name, f"{float(one.get(name)):.1f}")
    text = ElementTree.tostring(element, "unicode")
    text = re.sub(r">\s+<", "><", text).strip().replace(" />", "/>")
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)


def shorter(path: str) -> str:
    """Return a path of straight lines in steps of tenths of a point; others only without what they do not need.

    >>> shorter("M 10 20 L 30 20 L 40 20 L 40 12.5 L 50 10 z")
    'M10 20h30v-7.5l10-2.5z'
    """
    points = POINT.findall(path)
    if POINT.sub("", path).strip(" \nz"):
        return " ".join(path.split())
    steps, here = [], (0, 0)
    for command, *place in points:
        there = tuple(round(10 * float(number)) for number in place)
        x, y = there[0] - here[0], there[1] - here[1]
        if command == "M":
            steps.append(("M", *there))
        elif steps[-1][0] == "h" and y == 0 and steps[-1][1] * x > 0:
            steps[-1] = ("h", steps[-1][1] + x)
        elif x or y:
            steps.append(("h", x) if y == 0 else ("v", y) if x == 0 else ("l", x, y))
        here = there
    drawn = "".join(step[0] + " ".join(f"{number / 10:g}" for number in step[1:]) for step in steps)
    return re.sub(r" -", "-", drawn) + ("z" if path.rstrip().endswith("z") else "")


def fewer_colours(pixels: str) -> tuple[str, float]:
    """Return a PNG in base64 with a palette and no shade of transparency, and how opaque it was."""
    picture, small = Image.open(io.BytesIO(base64.b64decode(pixels))).convert("RGBA"), io.BytesIO()
    alpha = picture.getchannel("A")
    opaque = alpha.getextrema()[1]
    picture.putalpha(alpha.point(lambda value: 255 if value else 0))
    picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode(), opaque / 255
