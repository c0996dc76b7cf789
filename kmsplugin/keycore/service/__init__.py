"""The use cases: the only place with rules, shared by every face."""
