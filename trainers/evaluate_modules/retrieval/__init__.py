"""The module `retrieval`."""
