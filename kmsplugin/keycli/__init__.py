"""The command line ``keyplane``: it translates arguments and answers, and holds no rule."""
