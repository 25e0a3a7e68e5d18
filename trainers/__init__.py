"""Trainers of the two stages of CoMa, their losses and their data."""
