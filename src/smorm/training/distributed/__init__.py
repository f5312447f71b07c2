"""One training by several processes, the ranks, as torchrun starts them."""
