"""Compressing deep networks: the code behind the notebooks, one module per idea.

Start with `course_lib.papers`; each module there holds one paper. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
