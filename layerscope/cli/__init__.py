"""The command line: parses, calls one analysis, prints its report, sets the exit code."""
