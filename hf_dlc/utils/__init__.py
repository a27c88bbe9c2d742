"""Tools for every room: files, memory, digests, parts of models, numerics, versions."""
