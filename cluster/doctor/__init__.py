"""Diagnosis: the parts that are there, those that are missing, and the remedies."""
