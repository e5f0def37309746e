"""The process of one submission: `python -m course_lib.classroom FOLDER DESCRIPTOR`, as `apart.run` calls it."""

import sys
from pathlib import Path

# nbformat imports jsonschema, which would build a grammar of web addresses that no notebook needs, for half a second
sys.modules["rfc3987_syntax"] = None

from course_lib.classroom.apart import main  # noqa: E402

main(Path(sys.argv[1]), int(sys.argv[2]))
