"""Texts as unit vectors: for finding what is alike, in memories and in what is mined."""
