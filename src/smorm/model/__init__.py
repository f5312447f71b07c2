"""The reward network: a decoder, one linear head, views on it, and how it is kept in a folder."""
