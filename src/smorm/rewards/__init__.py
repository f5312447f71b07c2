"""Whatever gives a reward, behind one protocol."""
