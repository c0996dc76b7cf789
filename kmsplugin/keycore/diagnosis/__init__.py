"""Looks at everything that can stop a node from serving, and changes nothing.

``keyplane doctor`` calls it. Each check is a small function on an :class:`Examination`; the
plan says which check needs which, so that one fault does not hide the others.
"""
