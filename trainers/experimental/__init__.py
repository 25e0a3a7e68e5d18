"""What the core does not need and may lose: the joint objective and temperatures per source."""
