"""The panel of each notebook, by the paper's word: what a setting leads to in plain numbers, the picture of that, and a goal."""
