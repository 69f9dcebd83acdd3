"""Decoding, encoding and analysis of media files."""
