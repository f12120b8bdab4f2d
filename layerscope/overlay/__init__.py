"""What the kernel makes of layer directories: marks, lookup, the merged walk. Nothing of Docker."""
