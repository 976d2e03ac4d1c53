"""Whole jobs, one call each: train, load for inference."""
