"""What every room may use: files, memory, digests, versions."""
