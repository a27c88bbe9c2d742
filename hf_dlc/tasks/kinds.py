"""The kinds of tasks, and what each of them learns from, in words."""

from __future__ import annotations


CAUSAL_LM = "causal-lm"
IMAGE_CLASSIFICATION = "image-classification"

TARGETS = {
    CAUSAL_LM: "Target tokens are those that training would learn from.",
    IMAGE_CLASSIFICATION: "The target of an image is its label.",
}
