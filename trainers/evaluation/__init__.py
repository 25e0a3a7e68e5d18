"""Retrieval metrics and the tasks that they are computed on."""
