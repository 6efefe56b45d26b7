"""Critics: remote models, recorded exchanges, scripts and rules. None of them has heard of an engine or the loop."""
