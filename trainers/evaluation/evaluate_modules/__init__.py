"""Metrics that `evaluate.load` takes from these folders, without a network."""
