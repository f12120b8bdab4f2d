"""Where layers come from: one file for each place, all giving the same ``Target`` and ``Stack``."""
