"""Experiments on the packaged emoji: the claim of the paper, its ablations, and the settings of stage 2."""
