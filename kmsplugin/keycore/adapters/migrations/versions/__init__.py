"""One module a revision.

What a released one has made of a store never changes. Columns of the first two got types that
mean the same to the engine that they were released for.
"""
