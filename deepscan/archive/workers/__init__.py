"""Who scans the files of an archive: processes here or on a cluster."""
