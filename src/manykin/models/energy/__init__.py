"""Models that give each datum an energy: low where data are, high where none are."""
