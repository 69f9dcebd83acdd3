"""A package, so that what its fixtures start, Ray above all, ends with its tests."""
