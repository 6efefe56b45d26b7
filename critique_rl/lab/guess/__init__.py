"""The second embedded world: sums with one digit unsure, where confidence, diversity and abstention can be exact."""
