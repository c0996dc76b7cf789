"""The shared core of keyplane: everything that decides, and nothing that speaks a protocol.

The faces (``keyplugin``, ``keyoperator``, ``keycli``) translate requests into
calls of :mod:`keycore.service`. Inside, dependencies point one way only:
bootstrap → service and adapters → ports → domain and errors.
"""
