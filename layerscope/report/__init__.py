"""Turns answers into text: documents for machines, tables for people. Prints nothing."""
