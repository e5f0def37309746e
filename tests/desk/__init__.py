"""Tests of a reader's place to work."""
