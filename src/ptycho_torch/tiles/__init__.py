"""Scans that are larger than memory, or that several processes share: solved in pieces, with state on the disk.

Two kinds of pieces, each with its own reason:

- *tiles* with halos, for solvers that see a region as a whole: the learned one's go in step
  (:mod:`ptycho_torch.solvers.learned_tiles`), pty-chi's are solved one by one; what is stitched depends on the cut as
  far as the solver reaches beyond the halo;
- *cells* (:mod:`ptycho_torch.scan.cells`), for ``epie``: they deal the mini-batches of a sweep, and as they follow
  from the positions alone, the image depends neither on memory nor on the number of processes.

What a piece comes to is one file, written whole or not at all. A run that ends goes on from those files, with any
number of processes.
"""

from __future__ import annotations
