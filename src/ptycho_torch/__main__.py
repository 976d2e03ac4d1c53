"""``python -m ptycho_torch``: the command ``ptychopinn``."""

from ptycho_torch.cli import main

main()
