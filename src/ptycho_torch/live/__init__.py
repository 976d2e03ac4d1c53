"""Live: the image while the frames arrive.

A source reads a detector's stream; frames and positions are paired by number and by nothing else, and kept on
disk; regions are solved as they fill; at the end all of it goes through the offline reconstruction. Frames that
were not used are counted, with the reason.

Sources are one file each and a name in :data:`~ptycho_torch.live.sources.SOURCES`; another distribution adds one
by an entry point in the group ``ptychopinn.sources``. What a protocol needs is in the extra ``live`` and imported
when its source is opened.
"""
