"""MMEB: its sets, the prompts of its tasks and its training split."""
