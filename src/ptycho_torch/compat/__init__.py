"""Everything of the older programs, over this package's own: what ``ptycho`` hands out, and two import paths more.

Channels last there, channels first here; offsets as group mean minus member there, member minus mean
here; a scan as loose arrays there, a :class:`~ptycho_torch.scan.Scan` here; parameters in one flat
dictionary there, in dataclasses here. ``ptycho_torch.model_manager`` and ``ptycho_torch.workflows.components``
are import paths of the older PyTorch part. See docs/older-program.md.
"""
