"""The embedded world of searches: facts that several queries may find, and none always does."""
