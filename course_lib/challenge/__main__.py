"""The process that decodes one file: `python -m course_lib.challenge`, as `apart.decode` calls it."""

from course_lib.challenge.apart import main

main()
