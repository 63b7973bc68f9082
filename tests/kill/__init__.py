"""Killing the platform, its sandboxes and what it stands on at random points, and what is there afterwards."""
