"""Writing results for editing programs: dubbed videos and cut lists."""
