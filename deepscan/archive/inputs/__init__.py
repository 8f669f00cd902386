"""Inputs of an archive scan: files on disks (listing.py) and at addresses (remote.py).

`listing.VIDEO_SUFFIXES` and `PICTURE_SUFFIXES` are the table of what is taken from folders;
video/formats.py says what else a format needs. Addresses need no entry: fsspec has the drivers.
"""
