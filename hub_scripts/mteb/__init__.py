"""The model as mteb takes it."""
