"""The KMS v2 messages and stubs, generated from ``protos/`` by ``make proto``."""
