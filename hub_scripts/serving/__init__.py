"""Embeddings that a server gives: asked for over HTTP, compared with golden vectors, explained where they differ."""
