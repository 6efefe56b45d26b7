"""Typed, frozen configuration: one home for each default. Imports neither torch nor transformers."""
