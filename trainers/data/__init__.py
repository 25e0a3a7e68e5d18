"""Sources of training and evaluation rows, one file each."""
