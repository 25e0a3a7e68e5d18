"""Embeddings over HTTP: what `coma serve` answers, and whether any server gives the right ones, and why not."""
