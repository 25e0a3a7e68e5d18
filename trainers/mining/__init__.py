"""Hard negatives, mined from the documents nearest to each query."""
