"""The same conversations on every path to a score, and how far the scores differ.

`check` compares a model with an export or a server, `paths` runs the paths, `comparison` measures a
path against the reference, `causes` names the likely cause of a failure.
"""
