"""The KMS v2 face: kube-apiserver's gRPC calls on a unix socket, translated for the core."""
