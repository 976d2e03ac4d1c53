"""Whole jobs; see :mod:`ptycho.workflows.components`."""
