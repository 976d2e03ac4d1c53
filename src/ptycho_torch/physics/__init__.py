"""Propagation, patches, likelihoods and units: the forward model that everything else rests on."""
