"""The older program's arrays and calls, over this package's own: what the porch ``ptycho`` hands out.

Channels last there, channels first here; offsets as group mean minus member there, member minus mean
here; a scan as loose arrays there, a :class:`~ptycho_torch.scan.Scan` here.
"""
