"""What `coma evaluate` reads and writes."""
