"""Instruction rows and language models."""
