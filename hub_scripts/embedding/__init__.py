"""What `coma embed` and `coma search` share: the index and its parts."""
