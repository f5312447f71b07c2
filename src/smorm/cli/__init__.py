"""The command line: a short file for a verb or two."""
