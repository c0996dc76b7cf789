"""The Kubernetes operator: everything of keyplane that serves Key resources."""
