"""Token trees: batches in which every shared token is computed once."""
