"""``python -m ptycho_torch``: the command ``ptychopinn``, also for ``torchrun -m ptycho_torch``."""

from ptycho_torch.cli import main

main()
