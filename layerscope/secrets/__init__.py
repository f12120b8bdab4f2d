"""Finds secrets in files and texts: rules, the engine that applies them, files that are known to hold some."""
