"""Dialogues about images, written by another model: the client, the filters, the output."""
