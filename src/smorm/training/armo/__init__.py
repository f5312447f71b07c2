"""ArmoRM: ridge rows on frozen hidden states, freed from verbosity, mixed by a gate."""
