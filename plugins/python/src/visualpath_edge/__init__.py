"""Python side of visualpath edge."""
