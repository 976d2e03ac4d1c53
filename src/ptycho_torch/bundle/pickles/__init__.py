"""Pickled data, decoded without running it, and written so that every reader understands it. Imports no torch."""
