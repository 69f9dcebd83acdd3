"""Tests against a real Ray and a real S3 server. A package, so that what its fixtures start ends with its tests."""
