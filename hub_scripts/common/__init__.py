"""What several commands share: arguments, settings, loading, folders."""
