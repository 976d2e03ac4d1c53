"""``python -m ptycho_torch.cli``."""

from ptycho_torch.cli import main

main()
