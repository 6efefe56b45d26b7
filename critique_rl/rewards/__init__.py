"""What judges a completion against its task; a judge that fails says so and never guesses a score."""
