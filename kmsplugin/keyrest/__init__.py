"""The REST face: the Key Management Service APIs, version 2.0.0, over HTTPS."""
