"""What there is to scan, on disks and elsewhere."""
