"""Entities: pure state machines with a journal that one activation may write."""
