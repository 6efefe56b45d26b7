"""Words going out: prompt templates with declared inputs, filled in one pass."""
