"""Words coming back: the reply's schema, parsing, the split into scalars and directives, and the record."""
