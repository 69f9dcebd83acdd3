"""Folders wherever they lie: on a disk, or below an `s3://` address; what stores and tables are written through."""

from cmmixer.storage.folder import Folder, Held, Place, absolute_place, open_folder, server_told
from cmmixer.storage.local import LocalFolder
from cmmixer.storage.place import is_remote, refuse_remote

__all__ = [
    "Folder",
    "Held",
    "LocalFolder",
    "Place",
    "absolute_place",
    "is_remote",
    "open_folder",
    "refuse_remote",
    "server_told",
]
