"""What is wrong with a set of records, found in one pass and in bounded memory.
No text is stored. Of each record there are hashes of 64 bits, counts, and two sketches of its words
in temporary files. With N records, two different texts share a 64-bit hash with a probability of
about N² / 2⁶⁵: 3e-8 for a million."""
