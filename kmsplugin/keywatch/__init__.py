"""Metrics and health of every process, in the same words: what a face shows to those who watch it.

It knows no protocol of a face and no rule of the core. A face says what it counts and
what it has found; this package names it, keeps it and answers for it.
"""
