"""Text that students wrote, made fit for a terminal, a table and the name of a file."""

import hashlib
import re
import unicodedata

LONGEST_NAME = 120  # bytes of a student's name in UTF-8; a file system takes 255, and suffixes are added
UNSAFE = re.compile(r"[^\w .@'’,()+-]")  # of a name: what a shell, a glob, a page or a path gives a meaning
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that are no files on Windows
FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@＝＋－＠])")  # some spreadsheets split at semicolons, and take full-width signs too


def printable(text: str, longest: int = 500) -> str:
    """Return `text` in one line: control characters and halves of characters as '?', the middle left out if too long."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def student_name(raw: str) -> str:
    """Return the name under which a student is known: safe as part of a path and in a table, at most 133 bytes long.

    Two spellings of one name in Unicode are one name. Where anything else had to be changed, a short hash of the original
    follows, so that two students never become one.
    """
    same = unicodedata.normalize("NFC", raw)
    name = UNSAFE.sub("_", same).encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
    name = name.strip(" .@'’,+-") or "_"  # a spreadsheet takes a leading @, + or - for a formula
    if name == same and not RESERVED.fullmatch(name):
        return name
    return f"{name}~{hashlib.sha256(same.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def spreadsheet(text: str) -> str:
    """Return `text` as a cell that no spreadsheet takes for a formula: an apostrophe stands before a sign that begins one."""
    return FORMULA.sub(r"\1\2'", printable(text, 2_000))
