"""The command line: parse, load config, build, call. Heavy imports happen inside the command that needs them."""
