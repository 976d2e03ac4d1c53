"""The container of a bundle: zip reader and writer, folders, limits, ``bundle.json``. Imports no torch."""
