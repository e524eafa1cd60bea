"""Tokens that carry a permission."""
