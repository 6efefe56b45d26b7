"""A finished run as one self-contained HTML page."""
