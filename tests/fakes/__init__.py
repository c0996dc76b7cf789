"""In-memory ports. Each one passes the contract suite of its port."""
