"""Readers of files: lines, CSV, JSON, and the files of a folder."""
