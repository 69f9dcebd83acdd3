"""Folders wherever they lie: on a disk, or below an `s3://` address; what stores and tables are written through."""
