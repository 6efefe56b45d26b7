"""Where the loop's numbers, events and stories go."""
