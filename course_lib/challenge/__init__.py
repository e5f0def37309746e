"""The smallest file that reads digits: a file decoded, measured, and placed among the others.

`entry` turns bytes into the numbers of a network, and refuses what may not take part; `apart` does this in a process of its
own, with limits; `measuring` counts the digits that a network reads wrongly; `places` compares files; `handed_in` finds those of
a class, and `page` draws the leaderboard. The rules are data/challenge/README.md.
"""
