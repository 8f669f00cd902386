"""Inputs of an archive scan: files on disks (listing.py) and at addresses (remote.py).

`listing.VIDEO_SUFFIXES` and `PICTURE_SUFFIXES` are the table of what is taken from folders; to add
a format, add its suffix there. Addresses need no entry: fsspec has the table of drivers.
"""
