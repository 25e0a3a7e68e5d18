"""The page of `coma app`: what a query finds in an index, and what the memory of an image answers."""
