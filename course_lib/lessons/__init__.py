"""What notebook 0N shows beside its cells, by its paper: figures for settings that a reader chooses."""
