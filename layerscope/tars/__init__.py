"""Tars, and what they are packed with: read in place, piece by piece. Knows neither overlayfs nor Docker."""
