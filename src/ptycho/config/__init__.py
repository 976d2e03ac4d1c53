"""Configuration; see :mod:`ptycho.config.config`."""
