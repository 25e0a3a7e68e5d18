"""What a published model consists of: files, card, golden vectors, upload."""
