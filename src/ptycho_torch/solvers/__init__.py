"""Solvers: what turns frames, positions and a probe into an object, iteratively."""
