"""Speed and memory, side by side with what users would take instead, in one run: `make bench`."""
