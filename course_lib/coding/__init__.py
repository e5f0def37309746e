"""The compressed file in numpy, without torch: its coders, its reader, and what `inspect` tells of it."""
