"""From exercises to marks: student copies, and grading that does not trust a line of student code; built on nbgrader.

`release` makes the copies for students. `grade` reads submissions (`collect`), lays what students wrote into the instructor's
notebook (`cells`), runs the answers in one sandboxed kernel and the tests in another (`sandbox`, `kernels`, `examine`), which
call each other over a socket (`wire`, `answers`), and keeps nbgrader's gradebook (`gradebook`).
"""
