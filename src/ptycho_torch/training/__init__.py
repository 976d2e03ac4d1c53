"""Training with Lightning: groups of frames, losses, schedule, state to resume from."""
