"""``python -m ptycho_torch``, and ``torchrun -m ptycho_torch``."""

from ptycho_torch.cli import main

main()
