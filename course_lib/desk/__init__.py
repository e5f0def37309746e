"""A reader's place to work: copies of the notebooks to write in, their updates, the start page, and checks of answers.

`copies` keeps the folder `work`. A copy is made by `handout` and brought up to date by `merging`; `start_page` tells where the
reader is. `checking` runs the tests of an exercise, and `cases` finds the smallest case that an answer fails.
"""
