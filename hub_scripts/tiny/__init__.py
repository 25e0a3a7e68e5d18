"""A small backbone and its tokenizer, made on the spot."""
