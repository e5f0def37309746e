"""The course as a website: pages from notebooks, texts and docstrings, and panels that answer without a kernel."""
