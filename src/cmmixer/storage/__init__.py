"""Writing that survives kills: whole files and folders, locks, object storage, growing tables, metadata files."""
